"""The pinhole camera: world points to pixels and back. OpenCV axes, pixel centres at +0.5, z-depth."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """Image coordinates and z-depth of points. ``pixels`` is finite but meaningless where ``depth`` <= 0."""

    pixels: Float[Tensor, "*batch 2"]
    depth: Float[Tensor, "*batch"]


def rigid_matrix(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """The rigid transform x → R x + t as a matrix [R t; 0 1]."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def rigid_inverse(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rigid transform: [R t; 0 1] to [Rᵀ −Rᵀt; 0 1]."""
    rotation_inverse = transform[..., :3, :3].transpose(-1, -2)
    translation = -rotation_inverse @ transform[..., :3, 3:]
    return torch.cat([torch.cat([rotation_inverse, translation], dim=-1), transform[..., 3:, :]], dim=-2)


def camera_centres(camera_from_world: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
    """Camera centres c = −Rᵀt in the world."""
    rotation, translation = camera_from_world[..., :3, :3], camera_from_world[..., :3, 3:]
    return -(rotation.transpose(-1, -2) @ translation).squeeze(-1)


def transform_points(
    transform: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Apply one rigid (or affine) transform to each batch entry's points."""
    return points @ transform[..., :3, :3].transpose(-1, -2) + transform[..., None, :3, 3]


def pixel_grid(height: int, width: int, *, like: Tensor) -> Float[Tensor, "H W 2"]:
    """Image coordinates (u, v) of all pixel centres, with the dtype and device of ``like``."""
    rows = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    columns = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([u, v], dim=-1)


def project(points_camera: Float[Tensor, "*batch points 3"], intrinsics: Float[Tensor, "*batch 3 3"]) -> Projection:
    """Project points given in camera coordinates: u = f_x x / z + s y / z + c_x, v = f_y y / z + c_y."""
    depth = points_camera[..., 2]
    # Points on or behind the camera plane get a harmless divisor: the caller drops them by their depth.
    divisor = torch.where(depth > 0, depth, 1.0)
    normalised = points_camera[..., :2] / divisor[..., None]
    linear, offset = intrinsics[..., :2, :2], intrinsics[..., None, :2, 2]
    return Projection(pixels=normalised @ linear.transpose(-1, -2) + offset, depth=depth)


def unproject(
    pixels: Float[Tensor, "*batch points 2"],
    *,
    depth: Float[Tensor, "*batch points"],
    intrinsics: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Camera coordinates of image coordinates with a z-depth: the inverse of ``project``."""
    fx, fy, skew = intrinsics[..., 0, 0, None], intrinsics[..., 1, 1, None], intrinsics[..., 0, 1, None]
    y = (pixels[..., 1] - intrinsics[..., 1, 2, None]) / fy
    x = (pixels[..., 0] - intrinsics[..., 0, 2, None] - skew * y) / fx
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def world_points_from_depth(
    depth: Float[Tensor, "*batch H W"],
    *,
    intrinsics: Float[Tensor, "*batch 3 3"],
    camera_from_world: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch H W 3"]:
    """The point map P of a depth map D: every pixel centre lifted to its depth, in world coordinates."""
    *batch, height, width = depth.shape
    pixels = pixel_grid(height, width, like=depth).reshape(-1, 2).expand(*batch, -1, -1)
    in_camera = unproject(pixels, depth=depth.flatten(-2), intrinsics=intrinsics)
    return transform_points(rigid_inverse(camera_from_world), in_camera).unflatten(-2, (height, width))
