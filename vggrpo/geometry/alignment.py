"""Comparing an estimated geometry with the true one: similarity alignment and the errors of the field."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry import so3
from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.projection import camera_centres


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """A Sim(3) map x → scale · rotation x + translation."""

    scale: Float[Tensor, "*batch"]
    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]

    def apply(self, points: Float[Tensor, "*batch points 3"]) -> Float[Tensor, "*batch points 3"]:
        """Map each batch entry's points."""
        rotated = points @ self.rotation.transpose(-1, -2)
        return self.scale[..., None, None] * rotated + self.translation[..., None, :]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryError:
    """Mean errors over all pairs of frames, in degrees. ``translation_direction`` is NaN for a camera that stands."""

    rotation: Float[Tensor, "*batch"]
    translation_direction: Float[Tensor, "*batch"]


def umeyama(
    source: Float[Tensor, "*batch points 3"],
    *,
    target: Float[Tensor, "*batch points 3"],
    weights: Float[Tensor, "*batch points"] | None = None,
) -> Similarity:
    """The similarity that minimises Σ w ‖target − (s R source + t)‖² (Umeyama 1991, with its reflection guard)."""
    if weights is None:
        weights = torch.ones_like(source[..., 0])
    share = (weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny))[..., None]
    source_mean, target_mean = (share * source).sum(dim=-2), (share * target).sum(dim=-2)
    source_centred, target_centred = source - source_mean[..., None, :], target - target_mean[..., None, :]
    covariance = (share * target_centred).transpose(-1, -2) @ source_centred
    left, singular, right = torch.linalg.svd(covariance)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    rotation = (left * sign[..., None, :]) @ right
    variance = (share * source_centred.square()).sum(dim=(-2, -1))
    scale = (singular * sign).sum(dim=-1) / variance.clamp(min=torch.finfo(variance.dtype).tiny)
    translation = target_mean - scale[..., None] * (rotation @ source_mean[..., None]).squeeze(-1)
    return Similarity(scale=scale, rotation=rotation, translation=translation)


def trajectory_error(
    estimated: Float[Tensor, "*batch N 4 4"], *, true: Float[Tensor, "*batch N 4 4"], min_baseline: float = 1e-4
) -> TrajectoryError:
    """Errors of the relative poses of all pairs of frames i < j, both trajectories as ``camera_from_world``.

    The rotation error is the geodesic angle between the relative rotations; the translation error the angle between
    the directions in which frame i sees the centre of frame j. Neither depends on the world frame or on scale. Pairs
    whose true baseline is below ``min_baseline`` (in the unit of ``true``) have no direction and are left out.
    """
    first, second = torch.triu_indices(estimated.shape[-3], estimated.shape[-3], offset=1, device=estimated.device)
    rotations, directions = [], []
    for poses in (estimated, true):
        rotation, centre = poses[..., :3, :3], camera_centres(poses)
        rotations.append(rotation[..., second, :, :] @ rotation[..., first, :, :].transpose(-1, -2))
        baseline = centre[..., second, :] - centre[..., first, :]
        directions.append((rotation[..., first, :, :] @ baseline[..., None]).squeeze(-1))
    rotation_angle = so3.angle_between(rotations[0], rotations[1])
    direction_angle = _angle_between_vectors(directions[0], directions[1])
    has_direction = so3.safe_norm(directions[1]) > min_baseline
    return TrajectoryError(
        rotation=torch.rad2deg(rotation_angle).mean(dim=-1),
        translation_direction=masked_mean(torch.rad2deg(direction_angle), mask=has_direction),
    )


def depth_abs_rel(
    estimated: Float[Tensor, "*batch N H W"],
    *,
    true: Float[Tensor, "*batch N H W"],
    valid: Bool[Tensor, "*batch N H W"],
    align_scale: bool = True,
) -> Float[Tensor, "*batch"]:
    """Mean of |D̂ − D| / D over valid pixels, after one median scale factor for the whole clip if ``align_scale``."""
    estimated, true, valid = estimated.flatten(-3), true.flatten(-3), valid.flatten(-3)
    usable = valid & (true > 0) & estimated.isfinite()
    if align_scale:
        ratio = torch.where(usable & (estimated > 0), true / estimated, torch.nan)
        estimated = estimated * ratio.nanmedian(dim=-1, keepdim=True).values
    error = (estimated - true).abs() / torch.where(usable, true, 1.0)
    return masked_mean(error, mask=usable)


def end_point_error(
    estimated: Float[Tensor, "*batch N H W 3"],
    *,
    true: Float[Tensor, "*batch N H W 3"],
    valid: Bool[Tensor, "*batch N H W"],
) -> Float[Tensor, "*batch"]:
    """Mean Euclidean distance of two flow (or point) fields over valid pixels, in their unit."""
    return masked_mean(so3.safe_norm(estimated - true).flatten(-3), mask=valid.flatten(-3))


def _angle_between_vectors(first: Float[Tensor, "*batch 3"], second: Float[Tensor, "*batch 3"]) -> Tensor:
    """Angle in radians by arctan2(‖a × b‖, a · b), which keeps its digits at 0 and pi."""
    cross = torch.linalg.cross(first, second)
    return torch.atan2(so3.safe_norm(cross), (first * second).sum(dim=-1))
