"""VGGT's output, in its own conventions and as the project's ``SceneGeometry``; differentiable throughout.

Converted here, and nowhere else: quaternions that are not normalised; a *predicted* first camera → the world frame
exactly; fields of view → intrinsics; depth and camera → points. The scale is relative: one unit is about the mean
distance of the scene's points. There is no flow: ``scene_flow`` is zero and ``flow_valid`` False everywhere.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggrpo.geometry.projection import rigid_matrix
from vggrpo.geometry.so3 import matrix_from_quaternion
from vggrpo.latent_geometry.foundation.base import DecodedFrames
from vggrpo.latent_geometry.foundation.static_scene import anchored_cameras, static_scene

# No camera sees less or more than this; a rectified field of view can be exactly zero.
NARROWEST_VIEW, WIDEST_VIEW = math.radians(1.0), math.radians(169.0)


@dataclass(frozen=True, kw_only=True)
class VGGTOutput:
    """What VGGT says of a video of N frames, dense parts for M of them.

    ``pose_encodings`` after every refinement, the last one counts: translation (3) and quaternion x, y, z, w of
    camera-from-world, vertical and horizontal field of view in radians. ``depth`` is z-depth. ``points`` are in the
    frame of camera 0 *as predicted*. Confidences are > 1.
    """

    pose_encodings: tuple[Float[Tensor, "B N 9"], ...]
    depth: Float[Tensor, "B M H W"]
    depth_confidence: Float[Tensor, "B M H W"]
    points: Float[Tensor, "B M H W 3"] | None
    points_confidence: Float[Tensor, "B M H W"] | None

    @property
    def pose_encoding(self) -> Float[Tensor, "B N 9"]:
        """The answer of the camera head."""
        return self.pose_encodings[-1]


def to_decoded_frames(output: VGGTOutput, *, frames: Int[Tensor, " M"] | None) -> DecodedFrames:
    """Convert an output with dense parts for ``frames`` only (None: all).

    The world frame is frame 0's predicted camera, so ``camera_from_world[:, 0]`` is exactly the identity.
    """
    encoding = output.pose_encoding.to(output.depth.dtype)
    cameras = anchored_cameras(camera_matrices(encoding))
    size = (output.depth.shape[-2], output.depth.shape[-1])
    intrinsics = plausible_intrinsics(encoding[..., 7:], size=size)
    own = cameras if frames is None else cameras.index_select(1, frames)
    own_intrinsics = intrinsics if frames is None else intrinsics.index_select(1, frames)
    scene = static_scene(
        camera_from_world=own, intrinsics=own_intrinsics, depth=output.depth, confidence=output.depth_confidence
    )
    return DecodedFrames(camera_from_world=cameras, scene=scene)


def camera_matrices(encoding: Float[Tensor, "*batch 9"]) -> Float[Tensor, "*batch 4 4"]:
    """Camera-from-world matrices of pose encodings."""
    return rigid_matrix(matrix_from_quaternion(encoding[..., 3:7]), encoding[..., :3])


def intrinsics_of_view(
    field_of_view: Float[Tensor, "*batch 2"], *, size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """K in pixels of (vertical, horizontal) fields of view in radians; the principal point is the image's middle."""
    height, width = size
    focal_y, focal_x = (
        0.5 * extent / (0.5 * angle).tan()
        for extent, angle in zip((height, width), field_of_view.unbind(-1), strict=True)
    )
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    entries = (focal_x, zero, 0.5 * width * one, zero, focal_y, 0.5 * height * one, zero, zero, one)
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def plausible_intrinsics(
    field_of_view: Float[Tensor, "*batch 2"], *, size: tuple[int, int]
) -> Float[Tensor, "*batch 3 3"]:
    """``intrinsics_of_view``; a view that no camera has (an untrained model) gets one as wide as the focal length."""
    is_camera = (field_of_view > NARROWEST_VIEW).all(-1) & (field_of_view < WIDEST_VIEW).all(-1)
    usual = 2 * torch.atan(torch.tensor([size[0] / size[1], 1.0]).to(field_of_view) / 2)
    return intrinsics_of_view(torch.where(is_camera[..., None], field_of_view, usual), size=size)
