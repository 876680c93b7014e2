"""Geometry consistency on ray-cast scenes: exact truth scores zero, every kind of damage is seen where it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rewards.analytic import (
    MOVING,
    STANDING,
    Sphere,
    displace_frame,
    make_scene,
    move_world,
    scale_frame_depth,
    truck_path,
    yaw,
)
from vggrpo.rewards import GeometrySettings, geometry_consistency
from vggrpo.types import SceneGeometry

EXACT = 1e-3  # of the scene scale: what pixel quantisation on curved surfaces leaves at 64 × 64


def score(scene: SceneGeometry) -> float:
    return geometry_consistency(scene).value.item()


@pytest.mark.parametrize(
    "path", [truck_path(), truck_path(17, step=0.15, turn=0.03), truck_path(step=-0.1, turn=-0.02)]
)
def test_exact_geometry_has_almost_no_error(path: np.ndarray) -> None:
    term = geometry_consistency(make_scene(path))
    assert -EXACT < term.value.item() <= 0
    assert term.per_frame.min() > -EXACT
    assert term.reasons == (None,)


def test_exact_planes_have_no_error_at_all() -> None:
    """No sphere, no outline: inverse depth is linear in the image, so only rounding is left."""
    term = geometry_consistency(make_scene(spheres=()))
    assert term.error_map is not None
    errors = term.error_map[term.error_map.isfinite()]
    assert errors.quantile(0.9).item() < 1e-9


@pytest.mark.parametrize("factor", [0.7, 0.9, 0.93, 1.05, 1.1, 1.3])
@pytest.mark.parametrize("frame", [0, 4, 8])
def test_a_frame_of_wrong_depth_scale_is_seen_and_named(factor: float, frame: int) -> None:
    """Its own points land exactly on its own depth: only other frames' points can tell."""
    term = geometry_consistency(scale_frame_depth(make_scene(), frame, factor))
    assert term.worst_frames is not None
    assert term.worst_frames[0, 0].item() == frame
    # |factor − 1| of the mean depth, which is a little above the scene scale (the geometric mean).
    assert -term.per_frame[0, frame].item() == pytest.approx(abs(factor - 1), rel=0.2)


def test_worse_damage_scores_worse() -> None:
    scores = [score(scale_frame_depth(make_scene(), 4, factor)) for factor in (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)]
    assert scores == sorted(scores, reverse=True)
    scores = [score(scale_frame_depth(make_scene(), 4, factor)) for factor in (1.0, 0.98, 0.95, 0.9, 0.8, 0.6)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.3), (0.3, 0.0, 0.0), (0.0, 0.3, 0.0)])
def test_a_displaced_frame_is_named_the_worst(offset: tuple[float, float, float]) -> None:
    term = geometry_consistency(displace_frame(make_scene(), 4, offset))
    assert term.worst_frames is not None
    assert term.worst_frames[0, 0].item() == 4
    assert term.value.item() < -10 * EXACT


def test_the_value_is_the_mean_of_the_three_worst_views() -> None:
    term = geometry_consistency(scale_frame_depth(make_scene(), 4, 1.1))
    assert term.worst_frames is not None
    worst = term.per_frame[0].sort().values[:3]
    assert term.value.item() == pytest.approx(worst.mean().item())
    assert term.per_frame[0][term.worst_frames[0]].tolist() == pytest.approx(worst.tolist())


def test_per_frame_terms_are_means_of_the_error_map() -> None:
    term = geometry_consistency(scale_frame_depth(make_scene(), 4, 1.1))
    assert term.error_map is not None
    torch.testing.assert_close(-term.error_map.flatten(2).nanmean(dim=-1), term.per_frame)


def test_world_frame_and_unit_do_not_matter() -> None:
    scene = scale_frame_depth(make_scene(), 4, 1.1)
    moved = move_world(scene, rotation=yaw(0.7), translation=np.array([3.0, -2.0, 5.0]), scale=40.0)
    assert score(moved) == pytest.approx(score(scene), rel=1e-4)


def test_moving_objects_with_their_flow_do_no_harm_and_without_it_they_do() -> None:
    scene = make_scene(spheres=(*STANDING, MOVING))
    assert score(scene) > -EXACT
    without_flow = replace(scene, scene_flow=torch.zeros_like(scene.scene_flow))
    assert score(without_flow) < -20 * EXACT
    flow_unknown = replace(scene, flow_valid=torch.zeros_like(scene.flow_valid))
    assert score(flow_unknown) == pytest.approx(score(without_flow))


def test_moving_pixels_are_not_compared() -> None:
    scene = make_scene(spheres=(*STANDING, MOVING))
    error_map = geometry_consistency(scene).error_map
    assert error_map is not None
    assert error_map[scene.scene_flow.norm(dim=-1) > 0].isnan().all()


def test_a_surface_that_no_other_view_could_see_is_hidden_not_wrong() -> None:
    """The last camera stands back and sees a sphere behind all the others: their points behind it are hidden by it."""
    path = truck_path()
    path[-1, :3, :3] = np.eye(3)
    path[-1, :3, 3] = (0.3, 0.0, -3.0)
    behind_the_others = Sphere(centre=(0.3, 0.2, -1.0), radius=0.4)
    term = geometry_consistency(make_scene(path, spheres=(*STANDING, behind_the_others)))
    assert term.error_map is not None
    covered = make_scene(path, spheres=(behind_the_others,)).depth[0, -1] < 3
    assert covered.sum() > 200
    # Pixels on its outline may hold a point just beside the sphere.
    assert term.error_map[0, -1][covered].isnan().float().mean().item() > 0.9
    assert term.error_map[0, -1][covered].nan_to_num().mean().item() < EXACT
    assert term.per_frame[0, -1].item() > -EXACT


def test_a_surface_that_other_views_look_past_is_wrong() -> None:
    """A sphere that exists in one frame only, before ground and wall that everybody sees."""
    popped = make_scene(spheres=()).map(torch.clone)
    with_spheres = make_scene()
    for name in ("depth", "points", "scene_flow"):
        getattr(popped, name)[:, 4] = getattr(with_spheres, name)[:, 4]
    term = geometry_consistency(popped)
    assert term.error_map is not None
    on_sphere = popped.depth[0, 4] < make_scene(spheres=()).depth[0, 4] * 0.8
    assert term.error_map[0, 4][on_sphere].nan_to_num().median().item() > 0.1
    assert term.per_frame[0, 4].item() < -20 * EXACT


def test_a_still_camera_compares_equal_views() -> None:
    assert score(make_scene(np.tile(np.eye(4), (9, 1, 1)))) == 0.0


def test_an_empty_view_is_left_out_and_too_many_make_the_video_unmeasurable() -> None:
    scene = scale_frame_depth(make_scene(), 4, 1.1)
    valid = scene.valid.clone()
    valid[:, 4] = False
    term = geometry_consistency(replace(scene, valid=valid))
    assert term.per_frame[0, 4].isnan()
    assert term.worst_frames is not None
    assert 4 not in term.worst_frames[0].tolist()
    assert term.value.item() > -EXACT
    valid[:, :7] = False
    term = geometry_consistency(replace(scene, valid=valid))
    assert term.value.isnan().all()
    assert "views" in str(term.reasons[0])
    term = geometry_consistency(replace(scene, valid=torch.zeros_like(valid)))
    assert term.value.isnan().all()
    assert "valid depth" in str(term.reasons[0])


def test_views_that_share_nothing_cannot_be_judged() -> None:
    path = truck_path(4)
    for frame in range(4):
        path[frame, :3, :3] = yaw(frame * np.pi / 2)
    scene = make_scene(path, spheres=())
    scene = replace(scene, valid=(scene.depth < 50) & scene.valid)
    term = geometry_consistency(scene)
    assert term.value.isnan().all()
    assert "views" in str(term.reasons[0])


def test_garbage_in_invalid_pixels_changes_nothing() -> None:
    scene = make_scene()
    valid = scene.valid.clone()
    valid[:, :, :10, :10] = False
    clean = geometry_consistency(replace(scene, valid=valid))
    dirty = scene.map(torch.clone)
    for name in ("depth", "points", "scene_flow"):
        getattr(dirty, name)[:, :, :10, :10] = torch.nan
    torch.testing.assert_close(geometry_consistency(replace(dirty, valid=valid)).per_frame, clean.per_frame)


def test_gradient_reaches_depth_points_and_cameras_and_is_finite() -> None:
    scene = scale_frame_depth(make_scene(spheres=(*STANDING, MOVING)), 4, 1.1)
    scene.depth[0, 0, 0, 0] = torch.nan  # an unusable pixel must not reach the gradient
    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in ("depth", "points", "camera_from_world")}
    geometry_consistency(replace(scene, **leaves)).value.sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.isfinite().all(), name
        assert leaf.grad.abs().sum() > 0, name


def test_growing_the_scene_gains_nothing() -> None:
    """Euler: the gradient of a scale-free reward is orthogonal to the direction that scales everything."""
    scene = scale_frame_depth(make_scene(), 4, 1.1)
    translation = scene.camera_from_world[..., :3, 3].clone().requires_grad_()
    depth, points = scene.depth.clone().requires_grad_(), scene.points.clone().requires_grad_()
    cameras = scene.camera_from_world.clone()
    cameras[..., :3, 3] = translation
    geometry_consistency(replace(scene, depth=depth, points=points, camera_from_world=cameras)).value.sum().backward()
    pieces = [(leaf * leaf.grad).sum().item() for leaf in (depth, points, translation) if leaf.grad is not None]
    assert sum(pieces) == pytest.approx(0.0, abs=1e-9)
    assert max(abs(piece) for piece in pieces) > 1e-3


def test_a_gradient_step_mends_the_damage() -> None:
    scene = scale_frame_depth(make_scene(), 4, 1.1)
    only_worst = GeometrySettings(num_worst=1)
    depth = scene.depth.clone().requires_grad_()
    before = geometry_consistency(replace(scene, depth=depth), settings=only_worst).value.sum()
    before.backward()
    assert depth.grad is not None
    mended = replace(scene, depth=depth.detach() + 0.1 * depth.grad.sign())
    assert geometry_consistency(mended, settings=only_worst).value.item() > before.item() + 0.01


def test_settings_are_used() -> None:
    scene = make_scene(spheres=(*STANDING, MOVING))
    blind = geometry_consistency(scene, settings=GeometrySettings(static_threshold=1.0))
    assert blind.value.item() < -20 * EXACT
    one = geometry_consistency(scale_frame_depth(scene, 4, 1.1), settings=GeometrySettings(num_worst=1))
    assert one.value.item() == pytest.approx(one.per_frame[0, 4].item())
