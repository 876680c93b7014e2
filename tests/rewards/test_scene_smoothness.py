"""Scene smoothness on ray-cast scenes: a world that stands or moves evenly is smooth, jumps are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rewards.analytic import MOVING, STANDING, Sphere, make_scene, move_world, scale_frame_depth, truck_path, yaw
from vggrpo.rewards import scene_smoothness
from vggrpo.types import SceneGeometry


def score(scene: SceneGeometry) -> float:
    return scene_smoothness(scene).value.item()


def jump(scene: SceneGeometry, replacement: SceneGeometry, frame: int) -> SceneGeometry:
    """One frame of another world."""
    mixed = scene.map(torch.clone)
    for name in ("depth", "points", "scene_flow"):
        getattr(mixed, name)[:, frame] = getattr(replacement, name)[:, frame]
    return mixed


def test_standing_planes_score_one() -> None:
    # What is missing to 1 are tracks across the crease of ground and wall.
    assert score(make_scene(spheres=())) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("spheres", [STANDING, (MOVING,), (*STANDING, MOVING)])
def test_standing_and_evenly_moving_scenes_score_almost_one(spheres: tuple[Sphere, ...]) -> None:
    term = scene_smoothness(make_scene(spheres=spheres))
    assert term.value.item() > 0.985
    assert term.per_frame[0, 1:-1].min().item() > 0.985
    assert term.per_frame[0, [0, -1]].isnan().all()


def test_an_object_that_moves_jerkily_is_rougher_than_one_that_moves_evenly() -> None:
    """Same path, same flow arrows; but the sphere is drawn half a step ahead in every other frame."""
    even = make_scene(spheres=(MOVING,))
    ahead = make_scene(spheres=(replace(MOVING, centre=(-0.8 + 0.1, 0.6, 3.5)),))
    jerky = even
    for frame in (1, 3, 5, 7):
        jerky = jump(jerky, ahead, frame)
    assert score(jerky) < score(even) - 0.003


def test_a_sphere_that_vanishes_for_one_frame_is_named() -> None:
    term = scene_smoothness(jump(make_scene(), make_scene(spheres=()), 4))
    per_frame = term.per_frame[0].nan_to_num(nan=1.0)
    assert set(per_frame.topk(2, largest=False).indices.tolist()) <= {3, 4, 5}
    assert per_frame.min().item() < 0.97
    assert per_frame[[1, 2, 6, 7]].min().item() > 0.985


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.03, 1.1, 1.4])
def test_a_frame_that_jumps_in_depth_lowers_the_frames_around_it(factor: float) -> None:
    term = scene_smoothness(scale_frame_depth(make_scene(), 4, factor))
    per_frame = term.per_frame[0]
    assert per_frame[[3, 4, 5]].nan_to_num(nan=0.5).max().item() < 0.75
    assert per_frame[[1, 2, 6, 7]].min().item() > 0.985
    assert term.value.item() < 0.9


def test_world_frame_and_unit_do_not_matter() -> None:
    scene = scale_frame_depth(make_scene(spheres=(*STANDING, MOVING)), 4, 1.05)
    moved = move_world(scene, rotation=yaw(0.7), translation=np.array([3.0, -2.0, 5.0]), scale=40.0)
    assert score(moved) == pytest.approx(score(scene), rel=1e-6)


def test_a_frozen_video_scores_one_as_documented() -> None:
    assert score(make_scene(np.tile(np.eye(4), (9, 1, 1)))) == pytest.approx(1.0)


def test_the_error_map_shows_the_jump_in_the_middle_frames() -> None:
    term = scene_smoothness(jump(make_scene(), make_scene(spheres=()), 4))
    assert term.error_map is not None
    assert term.error_map[0, [0, -1]].isnan().all()
    rough = (term.error_map.nan_to_num() > 0.5).flatten(2).sum(dim=-1)[0]
    assert rough[4] > 10 * rough[6].clamp(min=1)
    assert term.error_map.nan_to_num().max() <= 1.0


def test_too_little_to_follow_gives_nan_and_a_reason() -> None:
    scene = make_scene()
    assert "frames" in str(scene_smoothness(make_scene(truck_path(2))).reasons[0])
    valid = scene.valid.clone()
    valid[:, 1::2] = False
    term = scene_smoothness(replace(scene, valid=valid))
    assert term.value.isnan().all()
    assert "followed" in str(term.reasons[0])


def test_gradients_are_finite_and_reach_depth_points_flow_and_cameras() -> None:
    scene = scale_frame_depth(make_scene(spheres=(*STANDING, MOVING)), 4, 1.03)
    names = ("depth", "points", "scene_flow", "camera_from_world")
    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in names}
    scene_smoothness(replace(scene, **leaves)).value.sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.isfinite().all(), name
        assert leaf.grad.abs().sum() > 0, name


def test_gradients_are_finite_for_a_frozen_video() -> None:
    scene = make_scene(np.tile(np.eye(4), (5, 1, 1)))
    depth = scene.depth.clone().requires_grad_()
    scene_smoothness(replace(scene, depth=depth)).value.sum().backward()
    assert depth.grad is not None
    assert depth.grad.isfinite().all()
