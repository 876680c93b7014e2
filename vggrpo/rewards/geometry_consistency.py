"""Geometry consistency: do the frames agree on one static scene? Equations of reference method.md paragraph 3.

    X    all points P_j(p) that are static: ‖F‖ < τ · scene scale
    D̂_i  z-buffer of X into view i, WITHOUT frame i's own points (they land exactly on their own depth)
    E_i  mean over Ω_i of |D̂_i − D_i| / scene scale
    r    −(mean of the three worst E_i)

Three decisions make an exact scene score 0 and a wrong one not:

* D_i is read at the sub-pixel position of the splatted point, by interpolating inverse depth: on ground seen at a
  grazing angle half a pixel spans more depth than the errors we look for.
* A point behind view i's surface is hidden, not wrong, and leaves Ω_i (among them background seen through the holes of
  a splatted foreground). Unless the surface itself is refuted: another view looks past it. Without that exception a
  frame whose depth is too small would hide everything and go unpunished.
* Moving pixels of view i leave Ω_i as they leave X.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry.masked import masked_mean
from vggrpo.geometry.scene_flow import static_mask
from vggrpo.geometry.splat import RenderedViews, render_other_views, surface_depth_at
from vggrpo.rewards.measurable import (
    MIN_FRAMES,
    blank_where,
    common_reasons,
    unit_of,
    unjudged_term,
    with_count_reasons,
    without_unusable_values,
)
from vggrpo.rewards.settings import DEFAULT_GEOMETRY, GeometrySettings
from vggrpo.types import RewardTerm, SceneGeometry


def geometry_consistency(scene: SceneGeometry, *, settings: GeometrySettings = DEFAULT_GEOMETRY) -> RewardTerm:
    """Score the static scene's consistency: ``value`` <= 0, 0 is perfect.

    ``per_frame`` is −E_i, ``error_map`` the per-pixel |D̂_i − D_i| / scene scale on Ω_i, ``worst_frames`` the frames
    that the value is the mean of, worst first. A view with too few comparable pixels is NaN and cannot be a worst one;
    with too few judged views the video is NaN with a reason, and so it is without finite cameras or valid depth.
    """
    reasons = common_reasons(scene)
    if scene.num_frames < MIN_FRAMES:
        return unjudged_term("geometry_consistency", scene=scene, reasons=reasons)
    error_map = _reprojection_errors(scene, settings=settings)
    is_comparable = error_map.isfinite().flatten(2)
    view_error = masked_mean(error_map.flatten(2), mask=is_comparable)
    is_judged = is_comparable.float().mean(dim=-1) >= settings.min_coverage
    reasons = with_count_reasons(
        reasons,
        counts=is_judged.sum(dim=1),
        needed=max(settings.num_worst, math.ceil(settings.min_view_share * scene.num_frames)),
        sentence="only {count} views see enough of each other's static points, {needed} are needed",
    )
    # An error is never negative: views that are not judged sort last.
    worst = torch.where(is_judged, view_error, -1.0).topk(min(settings.num_worst, scene.num_frames), dim=1)
    return RewardTerm(
        name="geometry_consistency",
        value=blank_where(reasons, values=-worst.values.mean(dim=1)),
        per_frame=blank_where(reasons, values=torch.where(is_judged, -view_error, torch.nan)),
        reasons=tuple(reasons),
        error_map=error_map.detach(),
        worst_frames=worst.indices,
    )


def _reprojection_errors(scene: SceneGeometry, *, settings: GeometrySettings) -> Float[Tensor, "B N H W"]:
    """|D̂_i − D_i| / scene scale on Ω_i, NaN elsewhere."""
    scale = unit_of(scene)
    clean = without_unusable_values(scene)
    is_static = static_mask(
        clean.scene_flow, flow_valid=clean.flow_valid, scale=scale, threshold=settings.static_threshold
    )
    usable = clean.valid & is_static
    rendered = render_other_views(
        clean.points,
        usable=usable,
        camera_from_world=clean.camera_from_world,
        intrinsics=clean.intrinsics,
        view_depth=clean.depth,
        view_valid=clean.valid,
        margin=settings.seen_through_margin,
    )
    surface = _surface_under(rendered, depth=clean.depth, usable=usable)
    has_surface = surface.isfinite()
    # Harmless where there is none: a NaN would reach the gradient although it is masked.
    surface = torch.where(has_surface, surface, 1.0)
    is_behind = rendered.depth > surface * (1 + settings.hidden_margin)
    is_hidden = is_behind & ~rendered.seen_through
    comparable = rendered.is_hit & usable & has_surface & ~is_hidden
    error = (rendered.depth - surface).abs() / scale[:, None, None, None]
    return torch.where(comparable, error, torch.nan)


def _surface_under(
    rendered: RenderedViews, *, depth: Float[Tensor, "B N H W"], usable: Bool[Tensor, "B N H W"]
) -> Float[Tensor, "B N H W"]:
    """Each view's own static depth at the sub-pixel position of the point splatted there; NaN where it has none."""
    surface = surface_depth_at(
        depth.flatten(0, 1),
        valid=usable.flatten(0, 1),
        pixels=rendered.pixels.flatten(0, 1).flatten(1, 2),
        near=rendered.depth.flatten(0, 1).flatten(1),
    )
    return surface.view_as(depth)
