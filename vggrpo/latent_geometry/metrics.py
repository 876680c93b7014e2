"""Errors of an estimated geometry against exact truth: one report for Φ and Φ_g alike."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry.alignment import depth_abs_rel, end_point_error, trajectory_error
from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.projection import camera_centres
from vggrpo.geometry.so3 import safe_norm
from vggrpo.types import SceneGeometry, WorldClip

# Shorter baselines (metres) have no direction that an image could tell.
MIN_BASELINE = 0.05


@dataclass(frozen=True, kw_only=True)
class GeometryMetrics:
    """Mean errors over clips; NaN where no clip could be measured. ``clips`` counts them.

    ``rotation_degrees`` and ``translation_direction_degrees``: relative poses of all pairs of frames.
    ``still_rotation_degrees``: what ``rotation_degrees`` would be for a camera believed to stand still.
    ``position_relative``: mean distance of camera centres from the true ones over their mean distance from frame 0's,
    in clips whose camera travels; 1 is as bad as standing still.
    ``depth_abs_rel``: after one median scale a clip; ``depth_abs_rel_metric``: in metres as they are.
    ``flow_relative_epe``: end-point error on moving pixels over their mean true flow (1 = as bad as no flow).
    ``static_flow_metres``: mean estimated flow of pixels that stand still.
    ``focal_relative``: error of the focal length. ``mask_iou``: overlap of the validity masks.
    """

    clips: int
    rotation_degrees: float
    still_rotation_degrees: float
    translation_direction_degrees: float
    position_relative: float
    depth_abs_rel: float
    depth_abs_rel_metric: float
    flow_relative_epe: float
    static_flow_metres: float
    focal_relative: float
    mask_iou: float

    def to_json(self) -> dict[str, float | int | None]:
        """Rounded numbers; NaN becomes null."""
        return {
            name: value if isinstance(value, int) else None if value != value else round(value, 5)
            for name, value in asdict(self).items()
        }


def geometry_metrics(
    estimated: SceneGeometry, *, true: SceneGeometry, moving: Bool[Tensor, "B N H W"]
) -> GeometryMetrics:
    """Errors of a batch of clips, averaged over the clips."""
    poses = trajectory_error(estimated.camera_from_world, true=true.camera_from_world, min_baseline=MIN_BASELINE)
    resting = torch.eye(4).expand_as(true.camera_from_world)
    at_rest = trajectory_error(resting, true=true.camera_from_world, min_baseline=MIN_BASELINE)
    moved = true.valid & moving
    still = true.valid & ~moving
    flow_error = end_point_error(estimated.scene_flow, true=true.scene_flow, valid=moved)
    flow_size = masked_mean(safe_norm(true.scene_flow).flatten(1), mask=moved.flatten(1))
    focal = estimated.intrinsics[..., 0, 0] / true.intrinsics[..., 0, 0]
    union = (estimated.valid | true.valid).flatten(1).sum(1)
    overlap = (estimated.valid & true.valid).flatten(1).sum(1) / union
    return GeometryMetrics(
        clips=estimated.batch_size,
        rotation_degrees=_mean(poses.rotation),
        still_rotation_degrees=_mean(at_rest.rotation),
        translation_direction_degrees=_mean(poses.translation_direction),
        position_relative=_mean(_position_error(estimated, true=true)),
        depth_abs_rel=_mean(depth_abs_rel(estimated.depth, true=true.depth, valid=true.valid)),
        depth_abs_rel_metric=_mean(
            depth_abs_rel(estimated.depth, true=true.depth, valid=true.valid, align_scale=False)
        ),
        flow_relative_epe=_mean(flow_error / flow_size),
        static_flow_metres=_mean(masked_mean(safe_norm(estimated.scene_flow).flatten(1), mask=still.flatten(1))),
        focal_relative=_mean((focal - 1).abs().mean(1)),
        mask_iou=_mean(overlap),
    )


def clip_metrics(estimated: SceneGeometry, *, clip: WorldClip) -> GeometryMetrics:
    """Errors of one clip's estimated geometry (a batch of one, on the CPU) against the clip's exact truth."""
    moving = torch.from_numpy(clip.moving)[None]
    return geometry_metrics(estimated, true=clip.geometry.to_scene(), moving=moving)


def combine(metrics: Sequence[GeometryMetrics]) -> GeometryMetrics:
    """Average over batches, each weighted by its clips; NaN entries are left out."""
    names = [field.name for field in fields(GeometryMetrics) if field.name != "clips"]
    clips = torch.tensor([float(one.clips) for one in metrics])
    averages: dict[str, float] = {}
    for name in names:
        values = torch.tensor([float(getattr(one, name)) for one in metrics])
        weight = clips * values.isfinite()
        averages[name] = float((values.nan_to_num() * weight).sum() / weight.sum())
    return GeometryMetrics(clips=int(clips.sum()), **averages)


def _position_error(estimated: SceneGeometry, *, true: SceneGeometry) -> Float[Tensor, " B"]:
    """Mean error of camera centres over their mean true travel; NaN for a camera that travels less than a baseline."""
    centres = camera_centres(true.camera_from_world)
    travelled = safe_norm(centres).mean(1)
    missed = safe_norm(camera_centres(estimated.camera_from_world) - centres).mean(1)
    return torch.where(travelled > MIN_BASELINE, missed / travelled, torch.nan)


def _mean(values: Float[Tensor, " B"]) -> float:
    return float(values.float().nanmean())
