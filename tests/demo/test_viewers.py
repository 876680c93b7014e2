"""What the stage is given: strips, figure, table and texts of a run."""

import json

import numpy as np
import pytest
from PIL import Image

from demo.results import RewardTrace, RunResult, read_run
from demo.text import GUARDS, TERMS
from demo.viewers.curves import marked_frames, reward_figure
from demo.viewers.stage import downloads, payload, prepare
from demo.viewers.strips import CELL_SIDE, write_strip
from demo.viewers.table import format_value, reward_table
from tests.demo.synthetic_run import render_clip, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "run", num_frames=9, size=32), run_id="run")


@pytest.fixture(scope="module")
def page_files(run, tmp_path_factory):
    return prepare(run, folder=tmp_path_factory.mktemp("page"))


def test_strip_holds_the_frames_side_by_side(tmp_path):
    frames = render_clip(num_frames=4, size=32).rgb
    write_strip(tmp_path / "rgb.jpg", frames)
    strip = np.asarray(Image.open(tmp_path / "rgb.jpg")).astype(int)
    assert strip.shape == (32, 4 * 32, 3)
    for k, frame in enumerate(frames):
        assert np.abs(strip[:, 32 * k : 32 * (k + 1)] - frame).mean() < 6


def test_large_frames_are_made_small(tmp_path):
    write_strip(tmp_path / "rgb.jpg", np.zeros((2, 480, 832, 3), dtype=np.uint8))
    assert Image.open(tmp_path / "rgb.jpg").size == (2 * CELL_SIDE, round(480 * CELL_SIDE / 832))


def test_figure_has_one_row_a_reward_on_one_frame_axis(run):
    figure = reward_figure(run)
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines"]
    assert [trace["name"] for trace in lines] == [trace.name for trace in run.rewards]
    assert list(lines[1]["y"]) == pytest.approx(list(run.rewards[1].per_frame))
    assert lines[0]["y"][0] is None
    assert list(figure["layout"]["xaxis"]["range"]) == [-0.5, 8.5]


def test_hovering_anywhere_names_a_frame(run):
    clocks = [trace for trace in reward_figure(run)["data"] if trace["name"] == "clock"]
    assert len(clocks) == len(run.rewards)
    for clock in clocks:
        assert list(clock["x"]) == list(range(9))
        assert clock["hoverinfo"] == "none"


def test_figure_of_a_reward_without_any_frame_is_drawn():
    trace = RewardTrace(name="x", value=None, per_frame=np.full(3, np.nan), reason="nothing to see")
    figure = reward_figure(RunResult(run_id="r", folder=None, rewards=(trace,), guards={}))
    assert json.dumps(figure["layout"]["xaxis"]["range"])
    assert marked_frames(trace) == ()


def test_worst_frames_are_the_rewards_own_else_its_lowest(run):
    assert marked_frames(run.rewards[1]) == (4, 3, 5)
    assert marked_frames(run.rewards[0]) == (4,)


def test_table_escapes_what_comes_from_files():
    trace = RewardTrace(name="<b>", value=None, per_frame=np.full(3, np.nan), reason="<script>alert(1)</script>")
    html = reward_table(RunResult(run_id="r", folder=None, rewards=(trace,), guards={"<i>": 1.0}))
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_every_reward_and_guard_of_the_project_has_words():
    from vggrpo.rewards import judge
    from vggrpo.types import ClipGeometry

    report = judge(ClipGeometry(**render_clip(num_frames=4, size=16).geometry).to_scene()).to_json()
    assert set(report.pop("guards")) == set(GUARDS)
    assert set(report) == set(TERMS)


def test_values_have_a_true_minus_sign_and_a_dash_for_nothing():
    assert format_value(-0.25) == "−0.250"
    assert format_value(-0.0123) == "−0.0123"
    assert format_value(-1e-9) == "0.0000"
    assert format_value(None) == "–"


def test_payload_is_json_and_names_every_download(run, page_files):
    value = json.loads(json.dumps(payload(run, page_files, frame=99)))
    assert value["frame"] == 8
    assert value["frames"] == 9
    assert [colour["id"] for colour in value["colours"]] == ["rgb", "depth", "error", "motion"]
    assert [item["file"] for item in downloads(run, page_files)] == [
        "video.mp4",
        "scene.ply",
        "scene.glb",
        "scene.viser",
        "scene.html",
        "rewards.csv",
        "geometry.npz",
    ]
    assert value["worst"][0] == {"frame": 4, "term": "Geometry"}


def test_a_run_without_a_valid_pixel_or_a_video_is_still_shown(tmp_path):
    folder = write_run(tmp_path / "run", num_frames=3, size=16)
    with np.load(folder / "geometry.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["valid"][:] = False
    np.savez(folder / "geometry.npz", **arrays)
    (folder / "video.mp4").unlink()
    run = read_run(folder, run_id="run")
    (tmp_path / "page").mkdir()
    value = payload(run, prepare(run, folder=tmp_path / "page"))
    assert value["video"] is None
    assert [colour["id"] for colour in value["colours"]] == ["depth", "error", "motion"]


def test_page_files_are_made_once(run, page_files):
    recording = page_files.folder / "stage.viser"
    before = recording.stat().st_mtime_ns
    assert prepare(run, folder=page_files.folder) == page_files
    assert recording.stat().st_mtime_ns == before
