"""Guards: what a reward can be gained by giving up. Numbers to read beside every reward, never to train on alone.

Reprojection reward alone freezes the camera, and both smoothness rewards are perfect on a still image. A gain counts
only if these do not fall.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.projection import camera_centres, pixel_grid, project, transform_points
from vggrpo.geometry.scene_flow import static_mask
from vggrpo.geometry.so3 import safe_norm
from vggrpo.rewards.measurable import observed_pixels, unit_of, without_unusable_values
from vggrpo.rewards.settings import DEFAULT_GEOMETRY
from vggrpo.types import SceneGeometry

# VBench's dynamic degree looks at the 5 % of pixels that move most.
_FASTEST_SHARE = 0.05
CHORD_FRAMES = 8
"""Frames between the two ends of a chord of the camera's path: longer than a hand's sway, shorter than a move."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """Amounts of motion of a batch of videos; NaN where the scene scale is unknown."""

    camera_path_length: Float[Tensor, " B"]
    dynamic_degree: Float[Tensor, " B"]
    moving_share: Float[Tensor, " B"]


def measure_guards(scene: SceneGeometry, *, static_threshold: float = DEFAULT_GEOMETRY.static_threshold) -> Guards:
    """All guards of a batch of videos."""
    return Guards(
        camera_path_length=camera_path_length(scene),
        dynamic_degree=dynamic_degree(scene),
        moving_share=moving_share(scene, static_threshold=static_threshold),
    )


def camera_path_length(scene: SceneGeometry) -> Float[Tensor, " B"]:
    """How far the camera goes, (N − 1) · mean_i ‖c_{i+w} − c_i‖ / w / scene scale; 0 if it only turns or stands.

    Chords over w = 8 frames (half the clip if it is shorter): for a camera of constant velocity the length of its path.
    The sum over single frames, Σ ‖c_{i+1} − c_i‖, would count shaking as travel (the world's jitter doubles it), so a
    guard on it would punish a camera for becoming steady.
    """
    centres = camera_centres(scene.camera_from_world)
    steps = scene.num_frames - 1
    if steps < 1:
        return torch.where(_has_depth(scene), torch.zeros_like(centres[:, 0, 0]), torch.nan)
    span = max(1, min(CHORD_FRAMES, steps // 2))
    chords = safe_norm(centres[:, span:] - centres[:, :-span])
    length = steps / span * chords.mean(dim=1) / unit_of(scene)
    return torch.where(_has_depth(scene), length, torch.nan)


def dynamic_degree(scene: SceneGeometry) -> Float[Tensor, " B"]:
    """Apparent motion, of camera and objects together, as a fraction of the image's shorter side a frame.

    The optical flow that the geometry implies, π_{i+1}(P_i + F_i) − p; of each pair of frames the mean of its fastest
    5 % (as VBench measures it), averaged over pairs. 0 for a frozen video; NaN without a pair that can be measured.
    """
    if scene.num_frames < 2:
        return torch.full_like(scene.depth[:, 0, 0, 0], torch.nan)
    clean = without_unusable_values(scene)
    height, width = clean.depth.shape[-2:]
    moved = (clean.points + clean.scene_flow)[:, :-1].flatten(2, 3)
    seen = project(transform_points(clean.camera_from_world[:, 1:], moved), clean.intrinsics[:, 1:])
    origin = pixel_grid(height, width, like=clean.depth).view(1, 1, -1, 2)
    is_measured = clean.valid[:, :-1].flatten(2) & (seen.depth > 0)
    speed = safe_norm(seen.pixels - origin) / min(height, width)
    num_fastest = max(1, round(_FASTEST_SHARE * height * width))
    fastest = torch.where(is_measured, speed, -1.0).topk(num_fastest, dim=-1).values
    per_pair = masked_mean(fastest, mask=fastest >= 0)
    return masked_mean(per_pair.nan_to_num(), mask=per_pair.isfinite())


def moving_share(scene: SceneGeometry, *, static_threshold: float) -> Float[Tensor, " B"]:
    """Share of the usable pixels that move through the world: ‖F‖ >= τ · scene scale. Camera motion does not count."""
    clean = without_unusable_values(scene)
    is_static = static_mask(
        clean.scene_flow, flow_valid=clean.flow_valid, scale=unit_of(scene), threshold=static_threshold
    )
    return masked_mean((~is_static).flatten(1).to(clean.depth.dtype), mask=clean.valid.flatten(1))


def _has_depth(scene: SceneGeometry) -> Bool[Tensor, " B"]:
    """Videos with a usable pixel: without one the scene scale is unknown."""
    return observed_pixels(scene).flatten(1).any(dim=1)
