"""Scene smoothness: does the structure of the scene persist and move without jumps?

The paper's figure names this reward, no formula is public; this one is ours. Scene points are followed over frames
i − 1, i, i + 1. A static point (‖F‖ < τ · scene scale) is expected to stay where it is in the world, a moving one to go
along its flow; at the next frame it is read again from the surface that frame has at the expected place:

    v_{i−1} = x_i − x_{i−1}       v_i = x_{i+1} − x_i        s = ‖v_i − v_{i−1}‖ / (‖v_i‖ + ‖v_{i−1}‖ + τ · scene scale)
    S_i = mean over tracks        r = 1 / (1 + mean S_i)     in (½, 1], 1 for a scene that keeps or keeps moving

A track whose next frame sees PAST the expected place is lost: the structure vanished, s = 1. A track whose next frame
sees something nearer is hidden and leaves the mean.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry import so3
from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.projection import project, rigid_inverse, transform_points, unproject
from vggrpo.geometry.scene_flow import static_mask
from vggrpo.geometry.splat import surface_depth_at
from vggrpo.rewards.measurable import (
    MIN_FRAMES,
    blank_where,
    common_reasons,
    unit_of,
    unjudged_term,
    with_count_reasons,
    without_unusable_values,
)
from vggrpo.rewards.settings import DEFAULT_SCENE, SceneSettings
from vggrpo.types import RewardTerm, SceneGeometry


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """Where tracks are one frame later. V = inner frames of all videos in a row, n tracks each."""

    position: Float[Tensor, "V n 3"]
    displacement: Float[Tensor, "V n 3"]  # expected on to the frame after, by the flow at that place
    pixel: Int[Tensor, "V n"]
    is_followed: Bool[Tensor, "V n"]
    is_lost: Bool[Tensor, "V n"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tracks:
    """Roughness s of three-frame tracks and the pixel of the middle frame that each passes through."""

    roughness: Float[Tensor, "V n"]
    is_measured: Bool[Tensor, "V n"]
    pixel: Int[Tensor, "V n"]


def scene_smoothness(scene: SceneGeometry, *, settings: SceneSettings = DEFAULT_SCENE) -> RewardTerm:
    """Score the continuity of the scene's structure in (½, 1].

    ``per_frame`` is 1 / (1 + S_i), NaN for both end frames and where too few tracks can be judged. ``error_map`` holds
    the largest s of the tracks that pass through a pixel of the middle frame, NaN where none does (lost tracks show
    where they were expected). NaN with a reason where too few frames can be judged.
    """
    reasons = common_reasons(scene)
    if scene.num_frames < MIN_FRAMES:
        return unjudged_term("scene_smoothness", scene=scene, reasons=reasons)
    tracks = _follow_tracks(scene, settings=settings)
    per_video = (scene.batch_size, scene.num_frames - 2)
    roughness = masked_mean(tracks.roughness, mask=tracks.is_measured).view(per_video)
    is_judged = (tracks.is_measured.float().mean(dim=-1) >= settings.min_coverage).view(per_video)
    reasons = with_count_reasons(
        reasons,
        counts=is_judged.sum(dim=1),
        needed=math.ceil(settings.min_frame_share * per_video[1]),
        sentence="scene points can be followed through {count} inner frames only, {needed} are needed",
    )
    inner = torch.where(is_judged, 1 / (1 + roughness), torch.nan)
    return RewardTerm(
        name="scene_smoothness",
        value=blank_where(reasons, values=1 / (1 + masked_mean(roughness, mask=is_judged))),
        per_frame=blank_where(reasons, values=torch.nn.functional.pad(inner, (1, 1), value=torch.nan)),
        reasons=tuple(reasons),
        error_map=_error_map(tracks, like=scene.depth),
    )


def _follow_tracks(scene: SceneGeometry, *, settings: SceneSettings) -> _Tracks:
    """Follow a grid of pixels of every frame but the last two over the next two frames."""
    scale = unit_of(scene)
    clean = without_unusable_values(scene)
    is_static = static_mask(
        clean.scene_flow, flow_valid=clean.flow_valid, scale=scale, threshold=settings.static_threshold
    )
    displacement = clean.scene_flow.masked_fill(is_static[..., None], 0.0)
    start = _on_start_grid(clean.points, stride=settings.stride)
    expected = start + _on_start_grid(displacement, stride=settings.stride)
    started = _on_start_grid(clean.valid[..., None], stride=settings.stride).squeeze(-1)
    first = _follow(expected, scene=clean, displacement=displacement, frames=slice(1, -1), settings=settings)
    expected = first.position + first.displacement
    second = _follow(expected, scene=clean, displacement=displacement, frames=slice(2, None), settings=settings)
    before, after = first.position - start, second.position - first.position
    still = (settings.static_threshold * scale).repeat_interleave(scene.num_frames - 2)[:, None]
    roughness = so3.safe_norm(after - before) / (so3.safe_norm(before) + so3.safe_norm(after) + still)
    is_lost = first.is_lost | (first.is_followed & second.is_lost)
    return _Tracks(
        roughness=torch.where(is_lost, 1.0, roughness),
        is_measured=started & (is_lost | (first.is_followed & second.is_followed)),
        pixel=first.pixel,
    )


def _on_start_grid(field: Tensor, *, stride: int) -> Tensor:
    """[V, n, c] every ``stride``-th pixel of the frames that can start a track, of a field [B, N, H, W, c]."""
    return field[:, :-2, ::stride, ::stride].flatten(2, 3).flatten(0, 1)


def _follow(
    expected: Float[Tensor, "V n 3"],
    *,
    scene: SceneGeometry,
    displacement: Float[Tensor, "B N H W 3"],
    frames: slice,
    settings: SceneSettings,
) -> _Step:
    """Read tracks again from the surfaces of ``frames``, given where they are expected in the world."""
    camera, intrinsics = scene.camera_from_world[:, frames].flatten(0, 1), scene.intrinsics[:, frames].flatten(0, 1)
    depth, valid = scene.depth[:, frames].flatten(0, 1), scene.valid[:, frames].flatten(0, 1)
    height, width = depth.shape[-2:]
    seen = project(transform_points(camera, expected), intrinsics)
    u, v = seen.pixels.detach().unbind(dim=-1)
    is_inside = (seen.depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixels = torch.where(is_inside[..., None], seen.pixels, 0.5)
    near = torch.where(is_inside, seen.depth, 1.0)
    surface = surface_depth_at(depth, valid=valid, pixels=pixels, near=near)
    is_seen = is_inside & surface.isfinite()
    surface = torch.where(is_seen, surface, near)
    column, row = pixels.detach().floor().long().unbind(dim=-1)
    pixel = row * width + column
    margin = settings.follow_margin
    # At an outline the pixel may belong to another surface than the track, whose flow would lead it astray.
    is_same_surface = (depth.flatten(1).gather(1, pixel) - surface).abs() < margin * surface
    flow = displacement[:, frames].flatten(0, 1).flatten(1, 2)
    return _Step(
        position=transform_points(rigid_inverse(camera), unproject(pixels, depth=surface, intrinsics=intrinsics)),
        displacement=flow.gather(1, pixel[..., None].expand(-1, -1, 3)),
        pixel=pixel,
        is_followed=is_seen & is_same_surface & ((surface - near).abs() < margin * near),
        is_lost=is_seen & (surface > near * (1 + margin)),
    )


def _error_map(tracks: _Tracks, *, like: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N H W"]:
    """Largest roughness of the tracks through each pixel of the inner frames; NaN elsewhere."""
    batch, num_frames, height, width = like.shape
    blank = torch.full((batch * (num_frames - 2), height * width), -1.0, dtype=like.dtype, device=like.device)
    values = torch.where(tracks.is_measured, tracks.roughness.detach(), -1.0)
    largest = blank.scatter_reduce(1, tracks.pixel, values, reduce="amax")
    inner = torch.where(largest < 0, torch.nan, largest).view(batch, num_frames - 2, height, width)
    return torch.nn.functional.pad(inner, (0, 0, 0, 0, 1, 1), value=torch.nan)
