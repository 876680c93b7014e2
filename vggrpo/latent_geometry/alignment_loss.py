"""Stage 1b: the alignment loss L = Σ_k λ_k ‖Φ_g,k(E(x)) - Φ_k(x)‖₁ over k in {C, D, P, F}, each term by itself.

Lengths are divided by the scene scale of Φ(x), so that a weight means the same in a small scene and in a large one.
Optional terms (weight 0 leaves them out of the sum, not of the log): intrinsics, the camera's step from frame to frame,
confidence, the encoder's features, and the gradient of log depth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry.projection import rigid_inverse
from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.latent_geometry.foundation.base import DecodedFrames


@dataclass(frozen=True, kw_only=True)
class AlignmentWeights:
    """λ of each term. The paper does not give them; VIST3A uses 1 for each head, 0.005 for the depth gradient, 0.01 for
    confidence and 0.1 for features, which are the defaults here.
    """

    camera: float = 1.0
    depth: float = 1.0
    points: float = 1.0
    flow: float = 1.0
    intrinsics: float = 0.0
    camera_step: float = 0.0
    confidence: float = 0.01
    features: float = 0.1
    depth_gradient: float = 0.005


EMBEDDED_WEIGHTS = AlignmentWeights(camera=5.0, camera_step=10.0, flow=10.0, intrinsics=1.0)
"""For the small models: terms brought to about the same size, and the camera's steps, which r_motion is made of."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One model's account of a video: what it decodes, and the encoder features that it decodes it from."""

    decoded: DecodedFrames
    features: Float[Tensor, "B N patches C"]


def alignment_losses(student: Reading, *, teacher: Reading, weights: AlignmentWeights) -> dict[str, Float[Tensor, ""]]:
    """All terms as ``align/<name>``, unweighted, and their weighted sum ``loss``. 0 for equal readings.

    Depth, points and confidence count where the teacher sees geometry, flow where its flow means something.
    """
    ours, theirs = student.decoded.scene, teacher.decoded.scene
    scale = scene_scale(theirs.depth, valid=theirs.valid).nan_to_num(nan=1.0)[:, None, None, None]
    length = scale[..., 0]
    our_cameras, their_cameras = student.decoded.camera_from_world, teacher.decoded.camera_from_world
    width = theirs.depth.shape[-1]
    terms = {
        "camera": camera_distance(our_cameras, their_cameras, length=length),
        "depth": masked_l1(ours.depth / scale, theirs.depth / scale, theirs.valid),
        "points": masked_l1(ours.points / scale[..., None], theirs.points / scale[..., None], theirs.valid),
        "flow": masked_l1(ours.scene_flow / scale[..., None], theirs.scene_flow / scale[..., None], theirs.flow_valid),
        "intrinsics": (ours.intrinsics - theirs.intrinsics).abs().mean() / width,
        "camera_step": camera_distance(_steps(our_cameras), _steps(their_cameras), length=length),
        "confidence": masked_l1(ours.confidence.log(), theirs.confidence.log(), theirs.valid),
        "features": (student.features.float() - teacher.features.float()).abs().mean(),
        "depth_gradient": gradient_distance(ours.depth / scale, theirs.depth / scale, valid=theirs.valid),
    }
    total = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
    return {"loss": total, **{f"align/{name}": value for name, value in terms.items()}}


def camera_distance(
    ours: Float[Tensor, "B N 4 4"], theirs: Float[Tensor, "B N 4 4"], *, length: Float[Tensor, "B 1 1"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of the rotations' nine entries, plus that of the translations in scene scales."""
    difference = (ours - theirs).abs()
    return difference[..., :3, :3].mean() + (difference[..., :3, 3] / length).mean()


def masked_l1(
    ours: Float[Tensor, "B N H W *channels"], theirs: Float[Tensor, "B N H W *channels"], mask: Bool[Tensor, "B N H W"]
) -> Float[Tensor, ""]:
    """Mean absolute difference over the marked pixels; 0 where there are none."""
    difference = (ours - theirs).abs()
    if difference.ndim > mask.ndim:
        difference = difference.mean(-1)
    return torch.where(mask, difference, 0.0).sum() / mask.sum().clamp_min(1)


def gradient_distance(
    ours: Float[Tensor, "B N H W"], theirs: Float[Tensor, "B N H W"], *, valid: Bool[Tensor, "B N H W"]
) -> Float[Tensor, ""]:
    """Mean absolute difference of the depths' finite differences along rows and columns."""
    difference = ours - theirs
    across = (difference[..., 1:] - difference[..., :-1]).abs()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs()
    both_across, both_down = valid[..., 1:] & valid[..., :-1], valid[..., 1:, :] & valid[..., :-1, :]
    sideways = torch.where(both_across, across, 0.0).sum() / both_across.sum().clamp_min(1)
    return sideways + torch.where(both_down, down, 0.0).sum() / both_down.sum().clamp_min(1)


def _steps(camera_from_world: Float[Tensor, "B N 4 4"]) -> Float[Tensor, "B N-1 4 4"]:
    """The next camera seen from each camera."""
    return camera_from_world[:, 1:] @ rigid_inverse(camera_from_world[:, :-1])
