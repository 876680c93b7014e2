"""Exports read back with independent readers equal the geometry they came from."""

import json

import msgspec
import numpy as np
import pytest
import trimesh
import zstandard

import scene_export
from scene_export.colour_maps import ERROR_FULL_SCALE, NOT_MEASURED, colour_depth, colour_error, colour_flow
from scene_export.colouring import available_colours, colour_scene
from scene_export.point_files import GLTF_FROM_OPENCV
from scene_export.recording import POINTS_PER_FRAME, client_page
from scene_export.run_scene import STATIC_THRESHOLD, read_scene
from scene_export.sampling import even_subset, shown_pixels
from scene_export.splat import splat_scene
from scene_export.viewpoint import ground_up
from tests.demo.synthetic_run import read_csv, render_clip, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", num_frames=9, size=48)


def decode_recording(data: bytes) -> dict:
    """A .viser file by its format: length, then zstd of (length, msgpack, arrays)."""
    inner = zstandard.ZstdDecompressor().decompress(data[8:], max_output_size=int.from_bytes(data[:8], "little"))
    assert len(inner) == int.from_bytes(data[:8], "little")
    size = int.from_bytes(inner[:8], "little")
    return msgspec.msgpack.decode(inner[8 : 8 + size])


def visible_moment(recording: dict, seconds: float) -> list[str]:
    """Names of the frames shown at a time, by replaying the messages up to it."""
    visible = {}
    for time, message in recording["messages"]:
        if time <= seconds and message["type"] == "SetSceneNodeVisibilityMessage":
            visible[message["name"]] = message["visible"]
    return [name for name, shown in visible.items() if shown and name.startswith("/frames/") and name.count("/") == 2]


def test_recording_shows_exactly_one_frame_at_any_time(run):
    recording = decode_recording(scene_export.record_run(run).read_bytes())
    assert recording["durationSeconds"] == pytest.approx(9 / 8)
    for frame in range(9):
        assert visible_moment(recording, (frame + 0.5) / 8) == [f"/frames/{frame}"]


def test_recording_of_all_colours_repeats_the_frames_for_every_colouring(run, tmp_path):
    recording = decode_recording(scene_export.record_all_colours(run, out=tmp_path / "all.viser").read_bytes())
    assert recording["durationSeconds"] == pytest.approx(4 * 9 / 8)
    for block in range(4):
        assert visible_moment(recording, (block * 9 + 4.5) / 8) == ["/frames/4"]


def test_recorded_frusta_stand_where_the_cameras_are(run):
    scene = read_scene(run)
    recording = decode_recording(scene_export.record_run(run).read_bytes())
    positions = {
        message["name"]: message["position"]
        for _, message in recording["messages"]
        if message["type"] == "SetPositionMessage"
    }
    for frame in range(scene.num_frames):
        expected = scene.world_from_camera[frame, :3, 3]
        np.testing.assert_allclose(positions.get(f"/frames/{frame}/camera", (0, 0, 0)), expected, atol=1e-6)


def test_recording_is_the_same_bytes_every_time(run, tmp_path):
    first = scene_export.record_run(run, out=tmp_path / "a.viser").read_bytes()
    assert scene_export.record_run(run, out=tmp_path / "b.viser").read_bytes() == first


def test_recording_prints_nothing(run, tmp_path, capfd):
    scene_export.record_run(run, out=tmp_path / "a.viser")
    assert capfd.readouterr().out == ""


def test_standalone_html_is_what_viser_itself_would_write(run, tmp_path, monkeypatch):
    import viser

    recording = scene_export.record_run(run, out=tmp_path / "a.viser")
    ours = scene_export.export_html(recording, out=tmp_path / "a.html").read_text()
    serializer = viser.infra.StateSerializer.__new__(viser.infra.StateSerializer)
    monkeypatch.setattr(serializer, "serialize", recording.read_bytes, raising=False)
    assert serializer.as_html() == ours
    assert client_page().is_file()


def test_ply_holds_every_valid_point_with_its_colour_and_frame(run):
    scene = read_scene(run)
    data = scene_export.export_ply(run).read_bytes()
    header, body = data.split(b"end_header\n", 1)
    assert f"element vertex {int(scene.valid.sum())}".encode() in header
    vertex = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3), ("frame", "<u2")])
    vertices = np.frombuffer(body, dtype=vertex)
    np.testing.assert_array_equal(vertices["xyz"], scene.points[scene.valid])
    np.testing.assert_array_equal(vertices["rgb"], scene.rgb[scene.valid])
    np.testing.assert_array_equal(np.bincount(vertices["frame"]), scene.valid.sum(axis=(1, 2)))
    assert len(trimesh.load(scene_export.export_ply(run), process=False).vertices) == len(vertices)


def test_glb_read_back_gives_the_cameras_and_points(run):
    scene = read_scene(run)
    model = trimesh.load(scene_export.export_glb(run), process=False)
    for frame in range(scene.num_frames):
        pose, _ = model.graph[f"camera_{frame:03d}"]
        expected = GLTF_FROM_OPENCV @ scene.world_from_camera[frame] @ GLTF_FROM_OPENCV
        np.testing.assert_allclose(pose, expected, atol=1e-5)
    cloud = model.geometry["points"].vertices @ GLTF_FROM_OPENCV[:3, :3]
    assert len(cloud) == int(shown_pixels(scene).sum())
    np.testing.assert_allclose(cloud.min(axis=0), scene.points[shown_pixels(scene)].min(axis=0), atol=1e-5)


def test_csv_has_a_row_for_every_frame_and_one_for_the_whole(run):
    rows = read_csv(scene_export.rewards_csv(run))
    rewards = json.loads((run / "rewards.json").read_text())
    assert rows[0][:4] == ["frame", "motion_smoothness", "geometry_consistency", "scene_smoothness"]
    assert [row[0] for row in rows[1:]] == [*map(str, range(9)), "all"]
    assert rows[1][1] == ""  # the first frame has no motion term
    assert [float(row[2]) for row in rows[1:10]] == rewards["geometry_consistency"]["per_frame"]
    assert float(rows[-1][1]) == rewards["motion_smoothness"]["value"]


def test_world_from_camera_undoes_camera_from_world(run):
    scene = read_scene(run)
    identity = scene.world_from_camera @ scene.camera_from_world
    np.testing.assert_allclose(identity, np.tile(np.eye(4), (9, 1, 1)), atol=1e-6)


def test_ground_up_is_the_floor_normal_although_the_camera_looks_down(run):
    scene = read_scene(run)
    heights = scene.points[0][scene.valid[0]] @ ground_up(scene)
    # The floor is the lowest surface, so along its normal most points share the smallest height.
    assert np.isclose(heights, heights.min(), atol=0.02).mean() > 0.4


def test_moving_points_are_exactly_those_of_the_sliding_sphere(run):
    scene = read_scene(run)
    slides = np.linalg.norm(scene.scene_flow, axis=-1) > 0
    assert 0.005 < slides.mean() < 0.1
    np.testing.assert_array_equal(scene.is_moving, slides)


def test_static_threshold_is_the_rewards_own():
    from vggrpo.rewards.settings import GeometrySettings

    assert GeometrySettings().static_threshold == STATIC_THRESHOLD


def test_scale_is_the_rewards_own():
    import torch

    from vggrpo.geometry.scene_scale import scene_scale

    clip = render_clip(num_frames=3, size=24).geometry
    depth, valid = torch.from_numpy(clip["depth"])[None], torch.from_numpy(clip["valid"])[None]
    scene = scene_export.RunScene(**clip, rgb=None, error=None, fps=8.0)
    assert scene.scale == pytest.approx(scene_scale(depth, valid=valid).item(), rel=1e-5)


def test_colourings_follow_the_files_that_exist(tmp_path):
    run = write_run(tmp_path / "run", num_frames=3, size=24, with_error=False)
    assert available_colours(read_scene(run)) == ("rgb", "depth", "motion")
    (run / "video.mp4").unlink()
    scene = read_scene(run)
    assert available_colours(scene) == ("depth", "motion")
    with pytest.raises(ValueError, match="rgb"):
        colour_scene(scene, colour="rgb")
    assert scene_export.record_run(run).stat().st_size > 1000


def test_a_run_without_geometry_is_named(tmp_path):
    run = write_run(tmp_path / "run", num_frames=3, size=24)
    with np.load(run / "geometry.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if name != "depth"}
    np.savez(run / "geometry.npz", **arrays)
    with pytest.raises(scene_export.SceneReadError, match="depth"):
        read_scene(run)
    (run / "geometry.npz").unlink()
    with pytest.raises(scene_export.SceneReadError, match=r"geometry\.npz"):
        read_scene(run)


def test_error_colours_run_from_blue_to_red_and_grey_where_not_measured():
    painted = colour_error(np.array([0.0, ERROR_FULL_SCALE, 2 * ERROR_FULL_SCALE, np.nan]))
    assert painted[0, 2] > painted[0, 0]
    assert painted[1, 0] > painted[1, 2]
    np.testing.assert_array_equal(painted[1], painted[2])
    assert tuple(painted[3]) == NOT_MEASURED


def test_depth_colours_grow_darker_with_distance():
    depth = np.linspace(1, 9, 64).reshape(1, 8, 8)
    brightness = colour_depth(depth, valid=np.ones_like(depth, dtype=bool)).astype(int).sum(axis=-1).ravel()
    assert (np.diff(brightness[3:-3]) <= 4).all()
    assert brightness[0] > 2 * brightness[-1]


def test_opposite_flows_have_complementary_colours():
    right, left, still = colour_flow(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]), full_scale=1.0).astype(int)
    np.testing.assert_array_equal(right + left, [255, 255, 255])
    assert tuple(still) == NOT_MEASURED


def test_even_subset_is_capped_and_covers_the_whole_image():
    chosen = even_subset(np.ones((64, 64), dtype=bool), limit=512)
    assert len(chosen) == 512
    rows, columns = np.divmod(chosen, 64)
    blocks = np.bincount(8 * (rows // 8) + columns // 8, minlength=64)
    assert blocks.min() >= 6
    assert blocks.max() <= 10
    assert POINTS_PER_FRAME <= 8000


def test_splat_draws_the_scene_and_leaves_the_rest_transparent(run):
    picture = splat_scene(read_scene(run), height=60, width=90)
    assert 0.03 < (picture[..., 3] > 0).mean() < 0.9
