"""Alignment and errors against transforms and errors that were put in."""

import math

import pytest
import torch

from vggrpo.geometry import so3
from vggrpo.geometry.alignment import (
    Similarity,
    depth_abs_rel,
    end_point_error,
    trajectory_error,
    umeyama,
)
from vggrpo.geometry.scene_flow import advance_points, static_mask
from vggrpo.geometry.scene_scale import scene_scale


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectory(num_frames: int = 6) -> torch.Tensor:
    matrices = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    matrices[:, :3, :3] = so3.exp(0.3 * random(num_frames, 3))
    matrices[:, :3, 3] = random(num_frames, 3, seed=1)
    return matrices


def test_umeyama_recovers_a_known_similarity() -> None:
    truth = Similarity(
        scale=torch.tensor([2.5, 0.3], dtype=torch.float64),
        rotation=so3.exp(random(2, 3)),
        translation=random(2, 3, seed=1),
    )
    source = random(2, 30, 3, seed=2)
    found = umeyama(source, target=truth.apply(source))
    torch.testing.assert_close(found.scale, truth.scale)
    torch.testing.assert_close(found.rotation, truth.rotation)
    torch.testing.assert_close(found.translation, truth.translation)


def test_umeyama_never_mirrors_and_ignores_points_of_no_weight() -> None:
    source = random(1, 30, 3)
    mirrored = source * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    assert torch.linalg.det(umeyama(source, target=mirrored).rotation).item() == pytest.approx(1.0)
    target = source.clone()
    target[:, :5] += 100
    weights = torch.ones(1, 30, dtype=torch.float64)
    weights[:, :5] = 0
    found = umeyama(source, target=target, weights=weights)
    assert found.scale.item() == pytest.approx(1.0)


def test_trajectory_error_is_blind_to_world_frame_and_scale() -> None:
    true = trajectory()
    moved = true.clone()
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3], world[:3, 3] = so3.exp(random(3, seed=4)), random(3, seed=5)
    moved = moved @ world
    moved[:, :3, 3] *= 3.0
    # Scaling camera-from-world translations scales the world only when applied before the change of frame.
    scaled = true.clone()
    scaled[:, :3, 3] *= 3.0
    error = trajectory_error(scaled @ world, true=true)
    assert error.rotation.item() == pytest.approx(0.0, abs=1e-5)
    assert error.translation_direction.item() == pytest.approx(0.0, abs=1e-5)


def test_trajectory_error_measures_the_angle_that_was_put_in() -> None:
    true = trajectory(2)
    turned = true.clone()
    turned[1, :3, :] = so3.exp(torch.tensor([0.0, math.radians(7.0), 0.0], dtype=torch.float64)) @ true[1, :3, :]
    error = trajectory_error(turned, true=true)
    assert error.rotation.item() == pytest.approx(7.0)
    assert error.translation_direction.item() == pytest.approx(0.0, abs=1e-5)


def test_a_standing_camera_has_no_direction() -> None:
    still = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    assert trajectory_error(still, true=still).translation_direction.isnan().all()


def test_depth_error_is_relative_and_scale_free_on_request() -> None:
    true = random(1, 2, 4, 4).abs() + 1
    valid = torch.ones_like(true, dtype=torch.bool)
    assert depth_abs_rel(1.2 * true, true=true, valid=valid, align_scale=False).item() == pytest.approx(0.2)
    assert depth_abs_rel(1.2 * true, true=true, valid=valid).item() == pytest.approx(0.0, abs=1e-12)
    assert depth_abs_rel(true, true=true, valid=~valid).isnan().all()


def test_end_point_error_is_a_mean_distance_over_valid_pixels() -> None:
    true = torch.zeros(1, 1, 1, 2, 3)
    estimated = torch.tensor([[[[[3.0, 4.0, 0.0], [100.0, 0.0, 0.0]]]]])
    valid = torch.tensor([[[[True, False]]]])
    assert end_point_error(estimated, true=true, valid=valid).item() == 5.0


def test_scene_scale_is_covariant_and_hardly_moved_by_a_far_horizon() -> None:
    depth = random(2, 3, 8, 8).abs() + 2
    valid = torch.ones_like(depth, dtype=torch.bool)
    scale = scene_scale(depth, valid=valid)
    torch.testing.assert_close(scene_scale(7 * depth, valid=valid), 7 * scale)
    depth[:, :, 0, :4] = 1000.0
    assert (scene_scale(depth, valid=valid) / scale).max() < 1.6
    assert scene_scale(depth, valid=~valid).isnan().all()


def test_static_points_stay_and_moving_ones_follow_their_flow() -> None:
    flow = torch.zeros(1, 1, 1, 3, 3)
    flow[..., 1, 0], flow[..., 2, 0] = 0.09, 0.5
    known = torch.tensor([[[[True, True, True]]]])
    scale = torch.tensor([5.0])
    is_static = static_mask(flow, flow_valid=known, scale=scale, threshold=0.02)
    assert is_static.flatten().tolist() == [True, True, False]
    assert static_mask(flow, flow_valid=~known, scale=scale, threshold=0.02).all()
    moved = advance_points(torch.zeros(1, 1, 1, 3, 3), scene_flow=flow, is_static=is_static)
    assert moved[..., 0].flatten().tolist() == [0.0, 0.0, 0.5]
