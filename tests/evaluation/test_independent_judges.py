"""Judges that no training sees, on world clips with known defects: each raises exactly the right error."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vggrpo.evaluation.epipolar import Matches, sampson_distances, sampson_error
from vggrpo.evaluation.reprojection import reprojection_error
from vggrpo.evaluation.sharpness import sharpness
from vggrpo.evaluation.trajectory_roughness import trajectory_roughness
from vggrpo.geometry import so3
from vggrpo.geometry.projection import rigid_inverse
from vggrpo.pretraining.data import select_frames
from vggrpo.types import WorldClip
from vggrpo.worlds import make_clip
from vggrpo.worlds.scenes import sample_scene

FRAMES = 5
WARPED = 2


def still_scenes(count: int) -> list[int]:
    """Seeds of scenes in which only the camera moves."""
    seeds = [
        seed
        for seed in range(9, 100)
        if sample_scene(seed).camera.name.split()[0] not in {"static", "pan"}
        and not any(item.moves for item in sample_scene(seed).objects)
    ]
    return seeds[:count]


def as_video(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 255.0


def warp(frames: np.ndarray) -> np.ndarray:
    """One frame is bent by waves of a pixel both ways: no camera could see the scene so."""
    import cv2

    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]].astype(np.float32)
    bent = frames.copy()
    moved = columns + np.sin(rows / 8), rows + np.sin(columns / 8 + 1)
    bent[WARPED] = cv2.remap(frames[WARPED], *moved, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return bent


@pytest.fixture(scope="module")
def clips() -> list[WorldClip]:
    """The beginnings of clips at the world's own speed: it makes its moves in 17 frames."""
    return [select_frames(make_clip(seed, jitter=False), np.arange(FRAMES)) for seed in still_scenes(3)]


@pytest.fixture(scope="module")
def slow_frames(clips: list[WorldClip]) -> list[np.ndarray]:
    return [clip.rgb for clip in clips]


# --- Sampson ---------------------------------------------------------------------------------------------------------


def test_sampsons_distance_in_a_rectified_pair_is_known() -> None:
    """For a camera that moves along x, F = [e_x]×: rows must agree, and δ rows apart are δ / √2 from the constraint."""
    fundamental = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 100, size=(6, 2))
    offsets = np.array([0.0, 0.5, -0.5, 1.0, 3.0, 0.0])
    second = first + np.column_stack([rng.uniform(-9, 9, size=6), offsets])
    found = sampson_distances(fundamental, matches=Matches(first=first, second=second))
    np.testing.assert_allclose(found, np.abs(offsets) / math.sqrt(2), atol=1e-9)
    # F has no scale.
    again = sampson_distances(-7.0 * fundamental, matches=Matches(first=first, second=second))
    np.testing.assert_allclose(again, found, atol=1e-9)


def test_true_static_scenes_obey_one_motion_and_a_warped_frame_does_not(slow_frames: list[np.ndarray]) -> None:
    true = [sampson_error(frames) for frames in slow_frames]
    warped = [sampson_error(warp(frames)) for frames in slow_frames]
    assert np.mean([found.value for found in true]) < 0.08
    near = [WARPED - 1, WARPED]
    before = np.nanmean([[found.per_pair[pair] for pair in near] for found in true])
    after = np.nanmean([[found.per_pair[pair] for pair in near] for found in warped])
    assert after > 4.0 * before
    for one, other in zip(true, warped, strict=True):
        # Pairs without the warped frame are as they were, to the last digit.
        assert one.per_pair[0] == other.per_pair[0]
        assert one.per_pair[WARPED + 1] == other.per_pair[WARPED + 1]


def test_a_frame_that_stands_still_has_no_error(clips: list[WorldClip]) -> None:
    frozen = np.repeat(clips[0].rgb[:1], 3, axis=0)
    found = sampson_error(frozen)
    assert found.value == pytest.approx(0.0, abs=1e-3)
    assert (found.failures, len(found.per_pair)) == (0, 2)


def test_pairs_that_cannot_be_judged_are_counted_and_have_no_number(clips: list[WorldClip]) -> None:
    holed = clips[0].rgb.copy()
    holed[WARPED] = 128
    found = sampson_error(holed)
    assert found.failures == 2
    assert [math.isnan(error) for error in found.per_pair] == [False, True, True, False]
    assert math.isfinite(found.value)
    grey = sampson_error(np.full((3, 64, 64, 3), 128, np.uint8))
    assert math.isnan(grey.value)
    assert "none of 2 pairs" in str(grey.reason)
    assert "no pair" in str(sampson_error(clips[0].rgb[:1]).reason)


# --- Reprojection ----------------------------------------------------------------------------------------------------


def reprojection_of(clip: WorldClip, frames: np.ndarray | None = None, cameras: Tensor | None = None) -> np.ndarray:
    """Per pair, with the exact depth and the exact or other cameras."""
    scene = clip.geometry.to_scene()
    if cameras is not None:
        from vggrpo.geometry.projection import world_points_from_depth

        points = world_points_from_depth(scene.depth, intrinsics=scene.intrinsics, camera_from_world=cameras)
        scene = type(scene)(
            **{name: getattr(scene, name) for name in scene.__slots__ if name not in {"camera_from_world", "points"}},
            camera_from_world=cameras,
            points=points,
        )
    found = reprojection_error(as_video(clip.rgb if frames is None else frames), scene=scene)
    assert float(found.compared[0]) > 0.3
    return found.per_pair[0].numpy()


@pytest.mark.parametrize("motion", ["slide left", "hop", "spin"])
def test_true_clips_reproject_onto_themselves_with_moving_objects(motion: str) -> None:
    seed = next(s for s in range(300) if any(item.words.motion == motion for item in sample_scene(s).objects))
    assert reprojection_of(make_clip(seed, num_frames=FRAMES)).max() < 0.015


def test_a_warped_frame_is_seen_in_its_own_pairs_only(clips: list[WorldClip]) -> None:
    for clip in clips:
        true, warped = reprojection_of(clip), reprojection_of(clip, warp(clip.rgb))
        assert (warped[[WARPED - 1, WARPED]] > 2.5 * true[[WARPED - 1, WARPED]]).all()
        np.testing.assert_array_equal(warped[[0, WARPED + 1]], true[[0, WARPED + 1]])


def test_wrong_cameras_are_seen(clips: list[WorldClip]) -> None:
    """The video is right, the judge's camera of one frame is turned by 2 degrees."""
    for clip in clips:
        cameras = clip.geometry.to_scene().camera_from_world.clone()
        cameras[0, WARPED, :3, :3] = so3.exp(torch.tensor([0.0, math.radians(2.0), 0.0])) @ cameras[0, WARPED, :3, :3]
        wrong = reprojection_of(clip, cameras=cameras)
        assert wrong[WARPED - 1] > 2.0 * reprojection_of(clip)[WARPED - 1]


def test_an_object_that_changes_its_looks_is_seen() -> None:
    seed = still_scenes(1)[0]
    clip = make_clip(seed, num_frames=FRAMES, jitter=False)
    painted = clip.rgb.copy()
    painted[WARPED][clip.object_id[WARPED] >= 2] = (250, 20, 250)
    true, changed = reprojection_of(clip), reprojection_of(clip, painted)
    share = (clip.object_id[WARPED] >= 2).mean()
    assert share > 0.01
    assert changed[WARPED] > true[WARPED] + 0.2 * share
    np.testing.assert_array_equal(changed[[0, WARPED + 1]], true[[0, WARPED + 1]])


def test_other_sizes_are_refused(clips: list[WorldClip]) -> None:
    with pytest.raises(ValueError, match="does not belong"):
        reprojection_error(as_video(clips[0].rgb)[..., :64], scene=clips[0].geometry.to_scene())


# --- Trajectories ----------------------------------------------------------------------------------------------------


def straight_path(num_frames: int = 200) -> Tensor:
    """Constant velocity and constant turning, camera_from_world [1, N, 4, 4]."""
    time = torch.arange(num_frames, dtype=torch.float64)
    world_from_camera = torch.eye(4, dtype=torch.float64).repeat(1, num_frames, 1, 1)
    world_from_camera[0, :, :3, :3] = so3.exp(torch.tensor([0.004, 0.01, -0.003], dtype=torch.float64) * time[:, None])
    world_from_camera[0, :, :3, 3] = torch.tensor([0.05, 0.0, 0.02], dtype=torch.float64) * time[:, None]
    return rigid_inverse(world_from_camera)


def test_constant_velocity_is_perfectly_smooth() -> None:
    found = trajectory_roughness(straight_path(), scene_depth=torch.tensor([2.0]))
    assert float(found.travel) == pytest.approx(0.0, abs=1e-12)
    assert float(found.turn) == pytest.approx(0.0, abs=1e-5)
    assert float(found.path) == pytest.approx(199 * math.hypot(0.05, 0.02) / 2.0, rel=1e-9)


def test_jitter_is_measured_at_its_size() -> None:
    """Independent jitter σ a frame: the second difference of each axis has the variance (1 + 4 + 1) σ²."""
    sigma, depth = 0.03, 3.0
    generator = torch.Generator().manual_seed(0)
    world_from_camera = rigid_inverse(straight_path())
    world_from_camera[0, :, :3, 3] += sigma * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    shaken = rigid_inverse(world_from_camera)
    found = trajectory_roughness(shaken, scene_depth=torch.tensor([depth]))
    assert float(found.travel) == pytest.approx(math.sqrt(18) * sigma / depth, rel=0.1)
    assert float(found.turn) == pytest.approx(0.0, abs=1e-5)
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = so3.exp(torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64))
    moved = trajectory_roughness(shaken @ world, scene_depth=torch.tensor([depth]))
    assert float(moved.travel) == pytest.approx(float(found.travel), rel=1e-9)


def test_jittered_worlds_are_rougher_than_steady_ones() -> None:
    def roughness(seed: int, *, jitter: bool) -> tuple[float, float]:
        placements = sample_scene(seed, jitter=jitter).camera.scene_from_camera(17)
        cameras = torch.from_numpy(np.linalg.inv(placements))[None]
        found = trajectory_roughness(cameras, scene_depth=torch.tensor([3.0]))
        return float(found.travel), float(found.turn)

    for seed in range(20):
        steady, shaken = roughness(seed, jitter=False), roughness(seed, jitter=True)
        assert shaken[0] > 5.0 * steady[0] > -1.0
        assert shaken[1] > 5.0 * steady[1] > -1.0


def test_two_frames_have_no_acceleration() -> None:
    found = trajectory_roughness(straight_path(2), scene_depth=torch.tensor([1.0]))
    assert math.isnan(float(found.travel))
    assert math.isnan(float(found.turn))
    assert float(found.path) > 0


# --- Sharpness -------------------------------------------------------------------------------------------------------


def test_sharpness_of_a_checkerboard_is_known() -> None:
    """Cells of one pixel, 0 and 2a: the Laplacian is ±8a."""
    board = (np.indices((16, 16)).sum(0) % 2 * 40).astype(np.uint8)
    frames = np.repeat(board[None, :, :, None], 3, axis=-1)
    assert sharpness(frames).tolist() == [pytest.approx(8 * 20)]


def test_blur_lowers_sharpness_and_brightness_does_not_change_it(clips: list[WorldClip]) -> None:
    from PIL import Image, ImageFilter

    frames = np.clip(clips[0].rgb, 0, 215)
    expected = sharpness(frames)
    np.testing.assert_allclose(sharpness(frames + 40), expected, rtol=1e-9)
    levels = []
    for radius in (0.5, 1.0, 2.0):
        blurred = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames]
        levels.append(sharpness(np.stack(blurred)))
    assert (expected > levels[0]).all()
    assert (levels[0] > levels[1]).all()
    assert (levels[1] > levels[2]).all()
