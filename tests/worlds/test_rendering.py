"""The world's geometry is exact: every array is checked against a second way of getting it."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from vggrpo.runtime.errors import UserError
from vggrpo.types import WorldClip
from vggrpo.worlds import make_clip, render_clip, sample_scene
from vggrpo.worlds.rendering import FIRST_OBJECT_ID, GROUND_ID, SKY_ID, import_open3d
from vggrpo.worlds.scenes import SceneSpec

SEEDS = (0, 1, 2, 3, 5, 8)
SIZE = 64
FRAMES = 9


@pytest.fixture(scope="module", params=SEEDS)
def scene(request: pytest.FixtureRequest) -> SceneSpec:
    return sample_scene(request.param)


@pytest.fixture(scope="module")
def clip(scene: SceneSpec) -> WorldClip:
    return render_clip(scene, num_frames=FRAMES, height=SIZE, width=SIZE)


@pytest.fixture(scope="module")
def moving_scene() -> SceneSpec:
    """The first scene with a hopping object: a motion that neither stands nor moves evenly."""
    return next(s for s in map(sample_scene, range(200)) if any(o.words.motion == "hop" for o in s.objects))


def project(clip: WorldClip, points: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates [..., 2] and z-depth [...] of world points in a frame, by homogeneous coordinates."""
    homogeneous = np.concatenate([points.astype(np.float64), np.ones((*points.shape[:-1], 1))], -1)
    camera = homogeneous @ clip.geometry.camera_from_world[frame].astype(np.float64).T
    image = camera[..., :3] @ clip.geometry.intrinsics[frame].astype(np.float64).T
    return image[..., :2] / image[..., 2:], image[..., 2]


def inverse_depth_at(clip: WorldClip, pixels: np.ndarray, frame: int, ids: np.ndarray) -> np.ndarray:
    """Bilinear 1 / depth at image coordinates [R, 2], exact on planes; NaN unless all four pixels show ``ids``."""
    _, height, width = clip.geometry.depth.shape
    found = np.full(len(pixels), np.nan)
    corner = np.floor(pixels - 0.5).astype(int)
    inside = (corner >= 0).all(-1) & (corner[:, 0] < width - 1) & (corner[:, 1] < height - 1)
    column, row = corner[inside].T
    weight_x, weight_y = (pixels[inside] - 0.5 - corner[inside]).T
    total = np.zeros(inside.sum())
    same = np.ones(inside.sum(), bool)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = np.where(dy, weight_y, 1 - weight_y) * np.where(dx, weight_x, 1 - weight_x)
        depth = clip.geometry.depth[frame, row + dy, column + dx].astype(np.float64)
        same &= clip.object_id[frame, row + dy, column + dx] == ids[inside]
        total += weight / np.where(depth > 0, depth, np.inf)
    found[inside] = np.where(same, total, np.nan)
    return found


def test_reprojected_points_give_the_pixel_grid_and_the_depth(clip: WorldClip) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    for frame in range(FRAMES):
        valid = clip.geometry.valid[frame]
        pixels, depth = project(clip, clip.geometry.points[frame], frame)
        np.testing.assert_allclose(pixels[valid], np.stack([columns, rows], -1)[valid], atol=2e-3)
        np.testing.assert_allclose(depth[valid], clip.geometry.depth[frame][valid], rtol=1e-5)


def test_world_is_the_first_camera(clip: WorldClip) -> None:
    np.testing.assert_allclose(clip.geometry.camera_from_world[0], np.eye(4), atol=1e-6)
    rotations = clip.geometry.camera_from_world[:, :3, :3].astype(np.float64)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (FRAMES, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-6)


def test_flow_moves_points_as_their_object_moves(scene: SceneSpec, clip: WorldClip) -> None:
    """P_i + F_i is where the object's own rigid motion takes P_i."""
    world_from_scene = np.linalg.inv(scene.camera.scene_from_camera(FRAMES)[0])
    for frame in range(FRAMES):
        first, second = (frame, frame + 1) if frame < FRAMES - 1 else (frame - 1, frame)
        for index, item in enumerate(scene.objects):
            mask = clip.object_id[frame] == FIRST_OBJECT_ID + index
            step = item.scene_from_object(second) @ np.linalg.inv(item.scene_from_object(first))
            if frame == FRAMES - 1:  # points are seen at time `second`, so the step that brought them there counts
                step = np.linalg.inv(step)
            motion = world_from_scene @ step @ np.linalg.inv(world_from_scene)
            here = clip.geometry.points[frame][mask].astype(np.float64)
            there = here @ motion[:3, :3].T + motion[:3, 3]
            sign = -1.0 if frame == FRAMES - 1 else 1.0
            np.testing.assert_allclose(clip.geometry.scene_flow[frame][mask], sign * (there - here), atol=2e-6)


def test_what_stands_does_not_flow_and_what_moves_does(scene: SceneSpec, clip: WorldClip) -> None:
    moving_ids = [FIRST_OBJECT_ID + i for i, item in enumerate(scene.objects) if item.words.motion != "still"]
    np.testing.assert_array_equal(clip.moving, np.isin(clip.object_id, moving_ids))
    assert not clip.geometry.scene_flow[~clip.moving].any()
    if clip.moving.any():
        assert np.linalg.norm(clip.geometry.scene_flow[clip.moving], axis=-1).mean() > 0.01


def test_flow_lands_on_the_object_in_the_next_frame(moving_scene: SceneSpec) -> None:
    """The renderer itself agrees: the depth seen at i + 1 where P_i + F_i lands is the depth of P_i + F_i."""
    clip = render_clip(moving_scene, num_frames=FRAMES, height=SIZE, width=SIZE)
    errors, distances_without_flow = [], []
    for frame in range(FRAMES - 1):
        mask = clip.moving[frame]
        ids = clip.object_id[frame][mask]
        points = clip.geometry.points[frame][mask]
        moved = points + clip.geometry.scene_flow[frame][mask]
        pixels, depth = project(clip, moved, frame + 1)
        seen = inverse_depth_at(clip, pixels, frame + 1, ids)
        errors.append((seen * depth - 1.0)[np.isfinite(seen)])
        pixels_still, _ = project(clip, points, frame + 1)
        distances_without_flow.append(np.linalg.norm(pixels - pixels_still, axis=-1))
    relative = np.abs(np.concatenate(errors))
    assert len(relative) > 500
    assert np.quantile(relative, 0.9) < 5e-3  # curved sides are not exactly planar between pixels
    assert np.mean(np.concatenate(distances_without_flow)) > 1.0  # pixels: the test could not pass without flow


def test_a_static_point_keeps_its_coordinates_in_all_frames(clip: WorldClip) -> None:
    """The ground seen in frame 0 lies, by its world coordinates, where every other frame sees the ground."""
    mask = clip.object_id[0] == GROUND_ID
    ids = clip.object_id[0][mask]
    for frame in range(1, FRAMES):
        pixels, depth = project(clip, clip.geometry.points[0][mask], frame)
        seen = inverse_depth_at(clip, pixels, frame, ids)
        met = np.isfinite(seen)
        assert met.sum() > 100
        np.testing.assert_allclose(seen[met] * depth[met], 1.0, atol=1e-3)


def test_sky_has_no_geometry(clip: WorldClip) -> None:
    sky = clip.object_id == SKY_ID
    np.testing.assert_array_equal(clip.geometry.valid, ~sky)
    assert not clip.geometry.depth[sky].any()
    assert not clip.geometry.points[sky].any()
    assert (clip.geometry.depth[~sky] > 0.1).all()
    assert sky.any()
    assert (clip.object_id == GROUND_ID).any()


def test_the_cone_of_view_does_not_depend_on_resolution(scene: SceneSpec) -> None:
    coarse = render_clip(scene, num_frames=2, height=32, width=32)
    fine = render_clip(scene, num_frames=2, height=96, width=96)
    np.testing.assert_allclose(coarse.geometry.camera_from_world, fine.geometry.camera_from_world, atol=1e-6)
    # The centre of coarse pixel (r, c) is the centre of fine pixel (3 r + 1, 3 c + 1): the very same ray.
    np.testing.assert_allclose(coarse.geometry.points, fine.geometry.points[:, 1::3, 1::3], atol=1e-4)


def fingerprint(clip: WorldClip) -> str:
    """SHA-256 over every byte of a clip."""
    geometry = clip.geometry
    arrays = (clip.rgb, clip.object_id, clip.moving, geometry.depth, geometry.points, geometry.scene_flow)
    digest = hashlib.sha256(clip.caption.encode())
    for array in (*arrays, geometry.camera_from_world, geometry.intrinsics, geometry.confidence, geometry.valid):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def test_a_seed_is_a_clip_in_every_process() -> None:
    here = fingerprint(make_clip(7, num_frames=3, height=32, width=32))
    assert here == fingerprint(make_clip(7, num_frames=3, height=32, width=32))
    assert here != fingerprint(make_clip(8, num_frames=3, height=32, width=32))
    code = (
        "from tests.worlds.test_rendering import fingerprint\n"
        "from vggrpo.worlds import make_clip\n"
        "print(fingerprint(make_clip(7, num_frames=3, height=32, width=32)))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize("seed", range(12))
def test_the_caption_names_what_is_seen(seed: int) -> None:
    scene = sample_scene(seed)
    clip = render_clip(scene, num_frames=1, height=SIZE, width=SIZE)
    assert clip.caption == scene.caption
    for index, item in enumerate(scene.objects):
        seen = clip.object_id[0] == FIRST_OBJECT_ID + index
        assert seen.sum() >= 8, f"{item.words.noun} is hidden"
        assert item.words.noun in clip.caption


def test_without_open3d_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(UserError, match=r"apt-get install.*libusb-1\.0-0") as caught:
        import_open3d()
    assert "\n" not in str(caught.value)
