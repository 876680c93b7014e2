"""The z-buffer: what each view should see of the points that the OTHER views found.

A view's own points reproject exactly onto its own depth, so they are left out: otherwise the comparison is blind to
everything but floaters. The winners of the z-buffer are chosen without gradients; their depths and image positions are
then computed again with them, so the result is differentiable in the points and cameras it keeps and the graph holds
one entry a pixel instead of one for every point and view.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry.projection import Projection, project, transform_points

_EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedViews:
    """The nearest point of the other views in every pixel of every view.

    ``source`` is its index into the flattened [N·H·W] points, -1 for a hole; ``depth`` (z) and ``pixels`` (where in the
    image it fell, up to half a pixel from the centre) are 0 in holes. ``seen_through`` marks, on the grid of the frame
    that OWNS the point, points that some other view looks past: that view sees a surface clearly behind the point.
    """

    source: Int[Tensor, "B N H W"]
    depth: Float[Tensor, "B N H W"]
    pixels: Float[Tensor, "B N H W 2"]
    seen_through: Bool[Tensor, "B N H W"]

    @property
    def is_hit(self) -> Bool[Tensor, "B N H W"]:
        """Pixels that received a point."""
        return self.source >= 0


def render_other_views(
    points: Float[Tensor, "B N H W 3"],
    *,
    usable: Bool[Tensor, "B N H W"],
    camera_from_world: Float[Tensor, "B N 4 4"],
    intrinsics: Float[Tensor, "B N 3 3"],
    view_depth: Float[Tensor, "B N H W"],
    view_valid: Bool[Tensor, "B N H W"],
    margin: float,
) -> RenderedViews:
    """Project the usable points of all other frames into each view and keep the nearest one in every pixel.

    ``view_depth`` and ``view_valid`` are what the views themselves see; they only decide ``seen_through``, with a
    relative ``margin`` of depth. Work: N² · H · W projections, N at a time, memory in proportion to N · H · W.
    """
    batch, num_frames, height, width = usable.shape
    flat_points = points.reshape(batch, -1, 3)
    nearest_surface = _nearest_in_footprint(view_depth, valid=view_valid)
    keys, seen_through = [], torch.zeros_like(usable).flatten(1)
    with torch.no_grad():
        for view in range(num_frames):
            in_camera = transform_points(camera_from_world[:, view], flat_points)
            projection = project(in_camera, intrinsics[:, view])
            is_inside = _is_inside(projection, height=height, width=width) & usable.flatten(1)
            is_inside.unflatten(1, (num_frames, -1))[:, view] = False
            pixel = _pixel_index(projection.pixels, width=width, is_inside=is_inside)
            surface = nearest_surface[:, view].gather(1, _footprint_index(projection.pixels, like=usable) * is_inside)
            seen_through |= is_inside & (projection.depth * (1 + margin) < surface) & surface.isfinite()
            keys.append(_z_buffer(projection.depth, pixel=pixel, is_inside=is_inside, num_pixels=height * width))
    key = torch.stack(keys, dim=1)
    source = torch.where(key == _EMPTY, -1, key & 0xFFFFFFFF)
    kept = _project_winners(flat_points, source=source, camera_from_world=camera_from_world, intrinsics=intrinsics)
    is_hole = source < 0
    return RenderedViews(
        source=source.unflatten(2, (height, width)),
        depth=kept.depth.masked_fill(is_hole, 0.0).unflatten(2, (height, width)),
        pixels=kept.pixels.masked_fill(is_hole[..., None], 0.0).unflatten(2, (height, width)),
        seen_through=seen_through.view_as(usable),
    )


def surface_depth_at(
    depth: Float[Tensor, "V H W"],
    *,
    valid: Bool[Tensor, "V H W"],
    pixels: Float[Tensor, "V n 2"],
    near: Float[Tensor, "V n"],
) -> Float[Tensor, "V n"]:
    """Depth of a view's surface at sub-pixel image positions: the candidate closest to ``near``; NaN without one.

    Candidates are the bilinear interpolation of inverse depth, exact on planes however grazing, and the four pixels
    around, of which one is right at an occlusion edge, where interpolation would invent a surface between the two.
    """
    height, width = depth.shape[-2:]
    corner = pixels.detach() - 0.5
    left = corner[..., 0].floor().clamp(0, max(width - 2, 0))
    top = corner[..., 1].floor().clamp(0, max(height - 2, 0))
    right_weight, bottom_weight = pixels[..., 0] - 0.5 - left, pixels[..., 1] - 0.5 - top
    index = (top * width + left).long()
    steps = (0, min(1, width - 1), width * min(1, height - 1), width * min(1, height - 1) + min(1, width - 1))
    corners = torch.stack([depth.flatten(1).gather(1, index + step) for step in steps], dim=-1)
    corner_valid = torch.stack([valid.flatten(1).gather(1, index + step) for step in steps], dim=-1)
    weights = torch.stack(
        [
            (1 - right_weight) * (1 - bottom_weight),
            right_weight * (1 - bottom_weight),
            (1 - right_weight) * bottom_weight,
            right_weight * bottom_weight,
        ],
        dim=-1,
    )
    inverse = (weights / torch.where(corner_valid, corners, 1.0)).sum(dim=-1)
    is_smooth = corner_valid.all(dim=-1) & (inverse > 0)
    interpolated = 1 / torch.where(is_smooth, inverse, 1.0)
    candidates = torch.cat([interpolated[..., None], torch.where(corner_valid, corners, 1.0)], dim=-1)
    is_candidate = torch.cat([is_smooth[..., None], corner_valid], dim=-1)
    distance = (candidates - near[..., None]).abs().detach().masked_fill(~is_candidate, torch.inf)
    best = distance.argmin(dim=-1, keepdim=True)
    return torch.where(is_candidate.any(dim=-1), candidates.gather(-1, best).squeeze(-1), torch.nan)


def _is_inside(projection: Projection, *, height: int, width: int) -> Tensor:
    """In front of the camera and inside the image."""
    u, v = projection.pixels.unbind(dim=-1)
    return (projection.depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def _pixel_index(pixels: Tensor, *, width: int, is_inside: Tensor) -> Tensor:
    """Row-major index of the pixel that holds each image position, 0 for those outside."""
    column, row = pixels.masked_fill(~is_inside[..., None], 0.0).floor().long().unbind(dim=-1)
    return row * width + column


def _z_buffer(depth: Tensor, *, pixel: Tensor, is_inside: Tensor, num_pixels: int) -> Tensor:
    """[B, pixels] int64 keys: bits of the smallest float32 depth, then the index of its point; ``_EMPTY`` for holes.

    The bits of positive floats are ordered as the floats, so one integer scatter-min finds depth and point together,
    and ties go to the lowest index on every device.
    """
    batch, num_points = depth.shape
    depth_bits = depth.float().contiguous().view(torch.int32).long()
    index = torch.arange(num_points, device=depth.device)
    key = torch.where(is_inside, (depth_bits << 32) | index, _EMPTY)
    buffer = torch.full((batch, num_pixels), _EMPTY, dtype=torch.int64, device=depth.device)
    return buffer.scatter_reduce(1, pixel, key, reduce="amin")


def _project_winners(
    flat_points: Tensor, *, source: Tensor, camera_from_world: Tensor, intrinsics: Tensor
) -> Projection:
    """Project each view's kept points once more, with gradients. Holes project point 0 and are masked by the caller."""
    batch, num_views, num_pixels = source.shape
    index = source.clamp(min=0).reshape(batch, -1, 1).expand(-1, -1, 3)
    winners = flat_points.gather(1, index).view(batch, num_views, num_pixels, 3)
    return project(transform_points(camera_from_world, winners), intrinsics)


def _nearest_in_footprint(depth: Tensor, *, valid: Tensor) -> Tensor:
    """[B, N, H·W] smallest valid depth of each pixel and its right, lower and lower-right neighbours, else infinity.

    An image position looks up the four pixel centres around it: if it lies on a surface whose outline is locally
    straight, at least one of the four does as well, so a point at an occlusion edge is never called seen through.
    """
    usable = depth.detach().masked_fill(~valid, torch.inf)
    padded = torch.nn.functional.pad(usable, (0, 1, 0, 1), value=torch.inf)
    return -torch.nn.functional.max_pool2d(-padded, kernel_size=2, stride=1).flatten(2)


def _footprint_index(pixels: Tensor, *, like: Tensor) -> Tensor:
    """Row-major index of the upper left of the four pixel centres around each image position, kept in the image."""
    height, width = like.shape[-2:]
    corner = (pixels - 0.5).floor()
    column, row = corner[..., 0].clamp(0, width - 1), corner[..., 1].clamp(0, height - 1)
    return (row * width + column).long()
