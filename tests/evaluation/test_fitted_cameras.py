"""Optical flow, cameras fitted to it, and what moves by itself. Oracles: known shifts, the world's exact geometry."""

import math

import numpy as np
import pytest
import torch

from vggrpo.evaluation.dynamic_degree import moving_share
from vggrpo.evaluation.fitted_cameras import DepthView, fit_cameras
from vggrpo.evaluation.optical_flow import FlowField, optical_flow
from vggrpo.geometry import so3
from vggrpo.geometry.projection import pixel_grid, project, transform_points
from vggrpo.pretraining.data import select_frames
from vggrpo.types import WorldClip
from vggrpo.worlds import make_clip, sample_scene

FRAMES = 4


def seed_with(*, moves: bool) -> int:
    return next(
        seed
        for seed in range(215, 600)
        if sample_scene(seed).camera.name.startswith("orbit")
        and any(item.words.motion.startswith("slide") for item in sample_scene(seed).objects) == moves
        and (moves or not any(item.moves for item in sample_scene(seed).objects))
    )


@pytest.fixture(scope="module")
def dynamic() -> WorldClip:
    return select_frames(make_clip(seed_with(moves=True), jitter=False), np.arange(FRAMES))


def exact_flow(clip: WorldClip) -> FlowField:
    """Where each pixel's point really goes, moving objects with it."""
    scene = clip.geometry.to_scene()
    moved = (scene.points + scene.scene_flow)[0, :-1].flatten(1, 2)
    seen = project(transform_points(scene.camera_from_world[0, 1:], moved), scene.intrinsics[0, 1:])
    own = pixel_grid(*scene.depth.shape[-2:], like=scene.depth).flatten(0, 1)
    forward = (seen.pixels - own).unflatten(1, scene.depth.shape[-2:]).numpy()
    agrees = scene.valid[0, :-1].numpy()
    return FlowField(forward=forward, backward=np.zeros_like(forward), agrees=agrees)


def view_of(clip: WorldClip) -> DepthView:
    geometry = clip.geometry
    return DepthView(depth=geometry.depth, intrinsics=geometry.intrinsics, valid=geometry.valid)


def test_exact_flow_gives_exact_cameras_beside_moving_objects(dynamic: WorldClip) -> None:
    assert dynamic.moving.mean() > 0.02
    fitted = fit_cameras(view_of(dynamic), flow=exact_flow(dynamic))
    assert fitted.camera_from_world is not None
    true = torch.from_numpy(dynamic.geometry.camera_from_world).double()
    found = torch.from_numpy(fitted.camera_from_world)
    angle = so3.angle_between(found[:, :3, :3], true[:, :3, :3])
    assert math.degrees(float(angle.max())) < 0.02
    np.testing.assert_allclose(found[:, :3, 3], true[:, :3, 3], atol=2e-3)
    still = 1.0 - dynamic.moving[:-1][dynamic.geometry.valid[:-1]].mean()
    assert min(fitted.explained) == pytest.approx(still, abs=0.05)


def test_cameras_come_in_the_unit_of_the_depth(dynamic: WorldClip) -> None:
    view, flow = view_of(dynamic), exact_flow(dynamic)
    large = DepthView(depth=7.0 * view.depth, intrinsics=view.intrinsics, valid=view.valid)
    one, other = (fit_cameras(each, flow=flow).camera_from_world for each in (view, large))
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(other[:, :3, 3], 7.0 * one[:, :3, 3], atol=1e-2)
    np.testing.assert_allclose(other[:, :3, :3], one[:, :3, :3], atol=1e-3)


def test_a_pair_that_no_camera_explains_leaves_the_path_unknown(dynamic: WorldClip) -> None:
    flow = exact_flow(dynamic)
    scattered = flow.forward.copy()
    scattered[1] = np.random.default_rng(0).uniform(-20, 20, size=scattered[1].shape)
    wild = FlowField(forward=scattered, backward=flow.backward, agrees=flow.agrees)
    found = fit_cameras(view_of(dynamic), flow=wild)
    assert found.camera_from_world is None
    assert "between frames 1 and 2" in str(found.reason)
    nothing = FlowField(forward=flow.forward, backward=flow.backward, agrees=np.zeros_like(flow.agrees))
    assert "only 0% of the points" in str(fit_cameras(view_of(dynamic), flow=nothing).reason)
    gap = flow.agrees.copy()
    gap[0] = False
    partly = FlowField(forward=flow.forward, backward=flow.backward, agrees=gap)
    assert "only 0 points could be followed between frames 0 and 1" in str(
        fit_cameras(view_of(dynamic), flow=partly).reason
    )


def test_flow_of_a_shifted_picture_is_the_shift() -> None:
    """A soft random texture, cut out twice: every pixel goes (2, −1) and back, and the last columns go nowhere."""
    import cv2

    texture = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, size=(140, 140)).astype(np.float32), (0, 0), 2)
    texture = np.clip(128 + 5 * (texture - texture.mean()), 0, 255).astype(np.uint8)
    frames = np.stack([texture[5:133, 8:136], texture[6:134, 6:134]])
    found = optical_flow(np.repeat(frames[..., None], 3, axis=-1))
    inner = (slice(8, -8), slice(8, -8))
    for flow, expected in ((found.forward[0], (2.0, -1.0)), (found.backward[0], (-2.0, 1.0))):
        error = np.linalg.norm(flow[inner] - expected, axis=-1)
        assert np.median(error) < 0.05
        assert np.quantile(error, 0.95) < 0.3
    assert found.agrees[0][inner].mean() > 0.98
    assert not found.agrees[0][8:-8, -1].any()


def test_pixels_of_moving_objects_move_and_no_others(dynamic: WorldClip) -> None:
    """With the world's exact geometry, by the flow that is read from the frames."""
    flow = optical_flow(dynamic.rgb)
    found = moving_share(dynamic.rgb, scene=dynamic.geometry.to_scene(), flow=flow)
    still_clip = select_frames(make_clip(seed_with(moves=False), jitter=False), np.arange(FRAMES))
    still = moving_share(still_clip.rgb, scene=still_clip.geometry.to_scene(), flow=optical_flow(still_clip.rgb))
    assert still.value < 0.01
    # Shadows move with their objects, and the mask of moving objects leaves them out.
    truth = float(dynamic.moving[:-1].mean())
    assert 0.2 * truth < found.value < 3.0 * truth
    # An object slides 0.055 m a frame about 3 m away, under a focal length of 0.9 frames.
    assert found.speed == pytest.approx(0.055 / 3.0 * 0.9, rel=0.6)
