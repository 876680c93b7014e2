"""Losses of the geometry model against exact truth, each one by itself.

Lengths are compared in units of the scene: the prediction divided by its own metric factor, the truth by its scene
scale. So the factor alone answers for metric size, and every other term is as strong in a small scene as in a large
one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vggrpo.geometry.projection import camera_centres, pixel_grid, rigid_inverse, rigid_matrix
from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.geometry.so3 import matrix_from_quaternion, safe_norm
from vggrpo.latent_geometry.foundation.any4d_output import Any4DOutput
from vggrpo.pretraining.geometry_batches import GeometryBatch
from vggrpo.types import SceneGeometry

# Reward of confidence: conf · error - CONFIDENCE_REWARD · log conf is smallest at conf = CONFIDENCE_REWARD / error.
CONFIDENCE_REWARD = 0.2
# β of the pose losses: about 2° for rotations, 5 % of the scene scale for translations.
SOFTENING = 0.05
# β of the scene flow's losses: most objects move by one to three hundredths of the scene scale a frame.
FLOW_SOFTENING = 0.02
# β and weight of rotations once motion can be seen: see ``RotationLoss``.
MEAN_SOFTENING = 0.2
MEAN_WEIGHT = 3.0
NOTHING_MORE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class RotationLoss:
    """How distances between rotations are softened and weighed.

    Far beyond ``softening`` a softened norm asks for the median of what the evidence allows, below it for the mean.
    More than half of all cameras do not turn, and a turn looks much like a sideways step: the median says "no turn"
    until the evidence is overwhelming, and teaches nothing on the way (measured: the loss of a still camera after 1600
    steps). The mean moves with every bit of evidence.
    """

    softening: float = SOFTENING
    weight: float = 1.0

    def __call__(self, difference: Float[Tensor, "*batch 9"]) -> Float[Tensor, "*batch"]:
        """The softened norm of differences between rotation matrices."""
        return self.weight * softened(difference, beta=self.softening)


MEDIAN_ROTATIONS = RotationLoss()
MEAN_ROTATIONS = RotationLoss(softening=MEAN_SOFTENING, weight=MEAN_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class GeometryLossWeights:
    """Weight of each loss by its log name (``loss/<name>``)."""

    scale: float = 0.2
    rotation: float = 8.0
    translation: float = 8.0
    step_rotation: float = 20.0
    step_translation: float = 20.0
    matching: float = 1.0
    displacement: float = 1.0
    token_pose: float = 8.0
    token_flow: float = 10.0
    rays: float = 2.0
    depth: float = 1.0
    depth_edges: float = 1.0
    points: float = 0.5
    flow_moving: float = 20.0
    flow_static: float = 20.0
    confidence: float = 0.05
    mask: float = 0.2


def geometry_losses(
    output: Any4DOutput,
    batch: GeometryBatch,
    *,
    weights: GeometryLossWeights,
    more: Mapping[str, Float[Tensor, ""]] = NOTHING_MORE,
    rotations: RotationLoss = MEDIAN_ROTATIONS,
) -> dict[str, Float[Tensor, ""]]:
    """All losses as ``loss/<name>``, unweighted, and their weighted sum ``loss``.

    Dense losses are there if the batch has dense frames. ``more`` are losses that were computed elsewhere.
    """
    scale = scene_scale(batch.truth.depth, valid=batch.truth.valid)
    factor = output.metric_scaling_factor[:, 0, 0]
    terms = {"scale": (factor.log() - scale.log()).abs().mean()}
    gaps = batch.offsets.diff(dim=1).abs()
    terms |= pose_losses(output, batch.truth, scale=scale, factor=factor, gaps=gaps, rotations=rotations) | dict(more)
    if len(batch.dense):
        truth = batch.truth.map(lambda tensor: tensor.index_select(1, batch.dense))
        terms |= dense_losses(output, truth, scale=scale, factor=factor)
        terms |= flow_losses(output, batch, scale=scale, factor=factor)
    total = sum(getattr(weights, name) * value for name, value in terms.items())
    moved = camera_motion(batch.truth, scale=scale, rotations=rotations)
    logged = {f"loss/{name}": value for name, value in terms.items()}
    return {"loss": torch.as_tensor(total), **logged, "pose/true_rotation": moved[0], "pose/true_translation": moved[1]}


def camera_motion(
    truth: SceneGeometry, *, scale: Float[Tensor, " B"], rotations: RotationLoss = MEDIAN_ROTATIONS
) -> tuple[Tensor, Tensor]:
    """What ``loss/rotation`` and ``loss/translation`` would be for a camera that is believed to stand still."""
    rotation = truth.camera_from_world[..., :3, :3]
    still = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    centres = camera_centres(truth.camera_from_world) / scale[:, None, None]
    return rotations((rotation - still)[:, 1:].flatten(-2)).mean(), softened(centres[:, 1:]).mean()


def pose_losses(
    output: Any4DOutput,
    truth: SceneGeometry,
    *,
    scale: Float[Tensor, " B"],
    factor: Float[Tensor, " B"],
    gaps: Int[Tensor, "B M"],
    rotations: RotationLoss = MEDIAN_ROTATIONS,
) -> dict[str, Tensor]:
    """Poses in the world, and from each frame to the next (what the smoothness of a motion is made of).

    A step over ``gaps`` frames counts 1 / gap: handheld jitter is a hundredth of the scene scale from one frame to the
    next, and would drown in the errors of long steps. Rotations by the Frobenius norm of their difference (√8 sin of
    half the angle), translations in scene scales. The first pair leaves frame 0 out: its pose is the identity by
    definition.
    """
    rotation = matrix_from_quaternion(output.cam_quats)
    estimated = rigid_matrix(rotation, output.cam_trans / factor[:, None, None])
    true = rigid_inverse(truth.camera_from_world)
    true = rigid_matrix(true[..., :3, :3], camera_centres(truth.camera_from_world) / scale[:, None, None])
    estimated_step = rigid_inverse(estimated[:, :-1]) @ estimated[:, 1:]
    true_step = rigid_inverse(true[:, :-1]) @ true[:, 1:]
    return {
        "rotation": rotations((estimated - true)[:, 1:, :3, :3].flatten(-2)).mean(),
        "translation": softened(estimated[:, 1:, :3, 3] - true[:, 1:, :3, 3]).mean(),
        "step_rotation": (softened((estimated_step - true_step)[..., :3, :3].flatten(-2)) / gaps).mean(),
        "step_translation": (softened(estimated_step[..., :3, 3] - true_step[..., :3, 3]) / gaps).mean(),
    }


def dense_losses(
    output: Any4DOutput, truth: SceneGeometry, *, scale: Float[Tensor, " B"], factor: Float[Tensor, " B"]
) -> dict[str, Tensor]:
    """Rays, log distance and its edges, points, confidence and mask of the dense frames."""
    metres = scale[:, None, None, None]
    true_rays = rays_of(truth)
    # True distance along the ray: z-depth over the ray's z.
    true_distance = truth.depth / true_rays[..., 2]
    valid = truth.valid
    true_log = torch.where(valid, true_distance, metres).log() - metres.log()
    estimated_log = output.depth_along_ray[..., 0].log() - factor[:, None, None, None].log()
    error = (estimated_log - true_log).abs()
    points_error = safe_norm(
        _compressed(output.pts3d / factor[:, None, None, None, None]) - _compressed(truth.points / metres[..., None])
    )
    surprise = output.conf * error.detach() - CONFIDENCE_REWARD * output.conf.log()
    logits = output.non_ambiguous_mask_logits
    return {
        "rays": safe_norm(output.ray_directions - true_rays).mean(),
        "depth": mean_over(error, valid),
        "depth_edges": edge_loss(estimated_log, true_log, valid=valid),
        "points": mean_over(points_error, valid),
        "confidence": mean_over(surprise, valid),
        "mask": F.binary_cross_entropy_with_logits(logits, valid.to(logits.dtype)),
    }


def flow_losses(
    output: Any4DOutput, batch: GeometryBatch, *, scale: Float[Tensor, " B"], factor: Float[Tensor, " B"]
) -> dict[str, Tensor]:
    """Softened scene-flow error in scene scales, apart for moving pixels and for still ones (far more numerous)."""
    true = batch.truth.scene_flow.index_select(1, batch.dense) / scale[:, None, None, None, None]
    estimated = output.scene_flow / factor[:, None, None, None, None]
    moving = batch.moving.index_select(1, batch.dense)
    known = batch.flow_known.index_select(1, batch.dense)[:, :, None, None]
    valid = batch.truth.valid.index_select(1, batch.dense) & known
    error = softened(estimated - true, beta=FLOW_SOFTENING)
    return {"flow_moving": mean_over(error, valid & moving), "flow_static": mean_over(error, valid & ~moving)}


def rays_of(scene: SceneGeometry) -> Float[Tensor, "B N H W 3"]:
    """Unit rays through the pixel centres, camera frame, of a pinhole without skew."""
    height, width = scene.depth.shape[-2:]
    focal = scene.intrinsics[..., (0, 1), (0, 1)][:, :, None, None]
    centre = scene.intrinsics[..., :2, 2][:, :, None, None]
    plane = (pixel_grid(height, width, like=scene.depth) - centre) / focal
    return F.normalize(torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1), dim=-1)


def edge_loss(
    estimated: Float[Tensor, "B M H W"], true: Float[Tensor, "B M H W"], *, valid: Bool[Tensor, "B M H W"]
) -> Float[Tensor, ""]:
    """Mean difference of log-distance gradients between neighbours, along rows and columns: sharp, flat surfaces."""
    difference = estimated - true
    across = (difference[..., 1:] - difference[..., :-1]).abs()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs()
    return mean_over(across, valid[..., 1:] & valid[..., :-1]) + mean_over(down, valid[..., 1:, :] & valid[..., :-1, :])


def mean_over(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the marked values; 0 (with a graph) where none is marked."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def softened(difference: Float[Tensor, "*batch n"], *, beta: float = SOFTENING) -> Float[Tensor, "*batch"]:
    """√(‖e‖² + β²) − β: a norm without its kink at zero.

    Many cameras stand still. A plain norm pulls on them with full strength however small their motion, and holds every
    camera at rest as long as the model cannot tell the moving ones apart with certainty.
    """
    return (difference.square().sum(-1) + beta**2).sqrt() - beta


def _compressed(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """x log(1 + ‖x‖) / ‖x‖: near points keep their differences, far ones do not drown them."""
    norm = safe_norm(points)[..., None].clamp_min(1e-6)
    return points * (norm.log1p() / norm)
