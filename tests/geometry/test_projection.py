"""The pinhole camera against numbers worked out by hand and against its own inverse."""

import torch

from vggrpo.geometry.projection import (
    camera_centres,
    pixel_grid,
    project,
    rigid_inverse,
    transform_points,
    unproject,
    world_points_from_depth,
)
from vggrpo.geometry.so3 import exp

INTRINSICS = torch.tensor([[100.0, 0.0, 32.0], [0.0, 50.0, 16.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def cameras(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    matrices[:, :3, :3] = exp(torch.randn(count, 3, generator=generator, dtype=torch.float64))
    matrices[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return matrices


def test_a_known_point_lands_where_the_formula_says() -> None:
    seen = project(torch.tensor([[0.4, -0.2, 2.0]], dtype=torch.float64), INTRINSICS)
    assert seen.pixels.tolist() == [[100 * 0.2 + 32, 50 * -0.1 + 16]]
    assert seen.depth.tolist() == [2.0]


def test_points_behind_the_camera_keep_finite_pixels() -> None:
    behind = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    seen = project(behind, INTRINSICS)
    seen.pixels.sum().backward()
    assert seen.pixels.isfinite().all()
    assert behind.grad is not None
    assert behind.grad.isfinite().all()
    assert (seen.depth <= 0).all()


def test_unproject_inverts_project_with_skew() -> None:
    skewed = INTRINSICS.clone()
    skewed[0, 1] = 3.0
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    seen = project(points, skewed)
    torch.testing.assert_close(unproject(seen.pixels, depth=seen.depth, intrinsics=skewed), points)


def test_rigid_inverse_is_the_matrix_inverse() -> None:
    matrices = cameras(5)
    torch.testing.assert_close(rigid_inverse(matrices), torch.linalg.inv(matrices))


def test_centres_map_to_the_camera_origin() -> None:
    matrices = cameras(5)
    origin = transform_points(matrices, camera_centres(matrices)[:, None])
    torch.testing.assert_close(origin, torch.zeros_like(origin))


def test_pixel_centres_lie_at_one_half() -> None:
    grid = pixel_grid(2, 3, like=torch.zeros(1))
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[1, 2].tolist() == [2.5, 1.5]


def test_lifted_points_reproject_to_the_grid_and_depth() -> None:
    depth = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    matrices, intrinsics = cameras(6).view(2, 3, 4, 4), INTRINSICS.expand(2, 3, 3, 3)
    points = world_points_from_depth(depth, intrinsics=intrinsics, camera_from_world=matrices)
    seen = project(transform_points(matrices, points.flatten(2, 3)), intrinsics)
    torch.testing.assert_close(seen.depth.view_as(depth), depth)
    expected = pixel_grid(8, 10, like=depth).expand(2, 3, 8, 10, 2)
    torch.testing.assert_close(seen.pixels.view_as(expected), expected)
