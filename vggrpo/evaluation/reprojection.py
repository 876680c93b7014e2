"""Dense reprojection error: is what a judge's cameras and depth say of frame i really seen in frame i + 1?

Every pixel of frame i is lifted to its depth, moved by its own scene flow, and projected into frame i + 1. Where the
judge's depth there agrees that nothing nearer hides the point, both colours must be the same:

    e_i = mean |I_{i+1}(π_{i+1}(P_i + F_i)) − I_i|          over the pixels that can be compared, 0 to 1

The share of pixels that was compared is told beside the error, because a wild geometry compares little. What is left on
true clips is shading, aliasing and interpolation.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.projection import project, transform_points
from vggrpo.types import SceneGeometry

DEPTH_TOLERANCE = 0.05
"""A point farther than the surface seen there by more than this share of its depth is hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReprojectionError:
    """``value``: mean of ``per_pair`` (NaN for pairs with nothing to compare); ``compared``: share of the pixels."""

    value: Float[Tensor, " B"]
    per_pair: Float[Tensor, "B pairs"]
    compared: Float[Tensor, " B"]


def reprojection_error(video: Float[Tensor, "B 3 N H W"], *, scene: SceneGeometry) -> ReprojectionError:
    """The error of videos in [0, 1] by a judge's geometry on the same pixel grid; see the module's text.

    Raises a ValueError where video and geometry differ in size.
    """
    if video.shape[-2:] != scene.depth.shape[-2:] or video.shape[2] != scene.num_frames:
        raise ValueError(f"a video of {tuple(video.shape)} does not belong to depth of {tuple(scene.depth.shape)}")
    height, width = video.shape[-2:]
    images = video.transpose(1, 2)
    moved = (scene.points + scene.scene_flow)[:, :-1].flatten(2, 3)
    seen = project(transform_points(scene.camera_from_world[:, 1:], moved), scene.intrinsics[:, 1:])
    size = seen.pixels.new_tensor([width, height])
    places = (2.0 * seen.pixels / size - 1.0).flatten(0, 1)[:, None]
    colours = F.grid_sample(images[:, 1:].flatten(0, 1), places, padding_mode="border", align_corners=False)
    # Nearest: between an object and the ground behind it lies no depth of either.
    depth = scene.depth[:, 1:].flatten(0, 1)[:, None]
    surface = F.grid_sample(depth, places, mode="nearest", align_corners=False)
    shape = seen.depth.shape
    inside = (places.abs() <= 1.0).all(dim=-1).reshape(shape)
    is_visible = seen.depth <= (1.0 + DEPTH_TOLERANCE) * surface.reshape(shape)
    mask = scene.valid[:, :-1].flatten(2) & inside & (seen.depth > 0) & is_visible
    own = images[:, :-1].flatten(0, 1).flatten(2)
    difference = (colours[:, :, 0] - own).abs().mean(dim=1).reshape(shape)
    per_pair = masked_mean(difference, mask=mask)
    return ReprojectionError(
        value=masked_mean(per_pair.nan_to_num(), mask=per_pair.isfinite()),
        per_pair=per_pair,
        compared=mask.double().mean(dim=(-2, -1)),
    )
