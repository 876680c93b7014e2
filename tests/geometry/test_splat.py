"""The z-buffer against a loop over points in plain Python, and the surface lookup against exact planes."""

import math

import pytest
import torch

from vggrpo.geometry import splat
from vggrpo.geometry.projection import pixel_grid, unproject
from vggrpo.geometry.so3 import exp
from vggrpo.geometry.splat import render_other_views, surface_depth_at

FRAMES, HEIGHT, WIDTH = 3, 6, 7


def random_views() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (2, FRAMES, HEIGHT, WIDTH)
    cameras = torch.eye(4).repeat(2, FRAMES, 1, 1)
    cameras[..., :3, :3] = exp(0.1 * torch.randn(2, FRAMES, 3, generator=generator))
    cameras[..., :3, 3] = 0.3 * torch.randn(2, FRAMES, 3, generator=generator)
    intrinsics = torch.tensor([[6.0, 0, 3.5], [0, 6.0, 3.0], [0, 0, 1]]).repeat(2, FRAMES, 1, 1)
    points = torch.randn(*shape, 3, generator=generator) + torch.tensor([0.0, 0.0, 2.0])
    usable = torch.rand(shape, generator=generator) < 0.8
    return {"points": points, "usable": usable, "camera_from_world": cameras, "intrinsics": intrinsics}


def z_buffer_by_hand(views: dict[str, torch.Tensor], video: int, view: int) -> dict[tuple[int, int], float]:
    """Nearest depth of other frames' points by pixel (row, column)."""
    nearest: dict[tuple[int, int], float] = {}
    for frame in range(FRAMES):
        if frame == view:
            continue
        points = views["points"][video, frame][views["usable"][video, frame]]
        in_camera = points @ views["camera_from_world"][video, view, :3, :3].T
        in_camera = in_camera + views["camera_from_world"][video, view, :3, 3]
        for x, y, z in in_camera.tolist():
            if z <= 0:
                continue
            column, row = math.floor(6 * x / z + 3.5), math.floor(6 * y / z + 3.0)
            if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                nearest[row, column] = min(z, nearest.get((row, column), math.inf))
    return nearest


def test_every_pixel_keeps_the_nearest_point_of_another_frame() -> None:
    views = random_views()
    surface = torch.full((2, FRAMES, HEIGHT, WIDTH), 2.0)
    rendered = render_other_views(
        **views, view_depth=surface, view_valid=torch.ones_like(surface, dtype=torch.bool), margin=0.05
    )
    for video in range(2):
        for view in range(FRAMES):
            expected = z_buffer_by_hand(views, video, view)
            hits = rendered.is_hit[video, view].nonzero().tolist()
            assert {tuple(hit) for hit in hits} == set(expected)
            for row, column in expected:
                assert rendered.depth[video, view, row, column] == pytest.approx(expected[row, column], rel=1e-5)
                source = int(rendered.source[video, view, row, column])
                assert source // (HEIGHT * WIDTH) != view


@pytest.mark.parametrize("points_at_once", [5, None], ids=["parts of a frame", "all, as on a GPU"])
def test_it_does_not_matter_how_many_points_are_projected_together(
    points_at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second route is the default on a CPU: one frame of one video at a time."""
    views = random_views()
    depth = torch.rand(2, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4)) * 3 + 1
    valid = torch.rand(depth.shape, generator=torch.Generator().manual_seed(5)) < 0.8
    expected = render_other_views(**views, view_depth=depth, view_valid=valid, margin=0.05)
    if points_at_once is None:
        everything = (slice(0, 2), slice(0, FRAMES * HEIGHT * WIDTH))
        monkeypatch.setattr(splat, "_pieces", lambda *_tensors, **_sizes: iter([everything]))
    else:
        monkeypatch.setattr(splat, "_POINTS_IN_CACHE", points_at_once)
    found = render_other_views(**views, view_depth=depth, view_valid=valid, margin=0.05)
    assert expected.seen_through.any()
    assert torch.equal(found.source, expected.source)
    assert torch.equal(found.seen_through, expected.seen_through)
    torch.testing.assert_close(found.depth, expected.depth)


def test_gradients_reach_kept_points_and_cameras_only() -> None:
    views = random_views()
    surface = torch.full((2, FRAMES, HEIGHT, WIDTH), 2.0)
    views["points"].requires_grad_()
    views["camera_from_world"].requires_grad_()
    rendered = render_other_views(
        **views, view_depth=surface, view_valid=torch.ones_like(surface, dtype=torch.bool), margin=0.05
    )
    rendered.depth.sum().backward()
    gradient = views["points"].grad
    assert gradient is not None
    touched = set(gradient[0].reshape(-1, 3).abs().sum(-1).nonzero().flatten().tolist())
    assert touched == set(rendered.source[0][rendered.is_hit[0]].tolist())
    assert views["camera_from_world"].grad is not None
    assert views["camera_from_world"].grad.abs().sum() > 0


def test_a_point_is_seen_through_only_if_another_view_looks_past_it() -> None:
    depth = torch.full((1, 2, HEIGHT, WIDTH), 4.0)
    cameras = torch.eye(4).repeat(1, 2, 1, 1)
    intrinsics = torch.tensor([[6.0, 0, 3.5], [0, 6.0, 3.0], [0, 0, 1]]).repeat(1, 2, 1, 1)
    pixels = pixel_grid(HEIGHT, WIDTH, like=depth).view(1, -1, 2)
    points = torch.stack(
        [unproject(pixels, depth=torch.full((1, HEIGHT * WIDTH), z), intrinsics=intrinsics[:, 0]) for z in (3.0, 4.0)],
        dim=1,
    ).view(1, 2, HEIGHT, WIDTH, 3)
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    rendered = render_other_views(
        points,
        usable=everywhere,
        camera_from_world=cameras,
        intrinsics=intrinsics,
        view_depth=depth,
        view_valid=everywhere,
        margin=0.05,
    )
    assert rendered.seen_through[0, 0].all()
    assert not rendered.seen_through[0, 1].any()


def test_surface_lookup_is_exact_on_a_grazing_plane() -> None:
    intrinsics = torch.tensor([[60.0, 0, 32.0], [0, 60.0, 0.0], [0, 0, 1]], dtype=torch.float64)
    grid = pixel_grid(64, 64, like=intrinsics)
    depth = 1.5 * 60.0 / grid[..., 1]  # ground 1.5 below a level camera: the depth halves within one row at the top
    pixels = 1 + 62 * torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 1.5 * 60.0 / pixels[..., 1]
    found = surface_depth_at(
        depth[None], valid=torch.ones(1, 64, 64, dtype=torch.bool), pixels=pixels, near=expected * (1 + 1e-9)
    )
    torch.testing.assert_close(found, expected)


def test_surface_lookup_takes_a_side_at_an_edge_and_ignores_invalid_pixels() -> None:
    depth = torch.tensor([[[2.0, 2.0, 8.0, 8.0]] * 4])
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    pixels = torch.tensor([[[2.1, 2.0], [2.1, 2.0]]])
    near = torch.tensor([[2.1, 7.9]])
    assert surface_depth_at(depth, valid=valid, pixels=pixels, near=near).tolist() == [[2.0, 8.0]]
    only_far = valid & (depth > 4)
    assert surface_depth_at(depth, valid=only_far, pixels=pixels, near=near).tolist() == [[8.0, 8.0]]
    assert surface_depth_at(depth, valid=~valid, pixels=pixels, near=near).isnan().all()


def test_surface_lookup_at_pixel_centres_is_the_pixels_own_depth() -> None:
    depth = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    pixels = pixel_grid(5, 5, like=depth).view(1, -1, 2)
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    found = surface_depth_at(depth, valid=everywhere, pixels=pixels, near=depth.flatten(1))
    torch.testing.assert_close(found, depth.flatten(1))
