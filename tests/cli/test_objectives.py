"""``train --objective`` on the debug preset's real models, and on a released model's kind with a folder of videos."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Shown
from tests.real_models import WAN21, write_geometry, write_wan21
from tests.worlds.real_videos import write_counting_video

SMALL = ("--preset", "tiny-debug", "--groups", 1, "--group-size", 2, "--noise-draws", 1, "--iterations", 1)
QUIET = ("--evaluate-every", 0, "--sample-every", 0, "--json")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of clips are kept here, and nowhere of the user's."""
    monkeypatch.setenv("VGGRPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def trained(shown: Shown, out: Path) -> dict[str, float]:
    assert shown.code == 0, shown.err
    assert json.loads(shown.out.splitlines()[-1])["finished"]
    weights = load_file(out / "adapter" / "pytorch_lora_weights.safetensors")
    assert any(bool(values.any()) for name, values in weights.items() if "lora_B" in name)
    return rows(out)[-1]


def test_sft_learns_from_steady_worlds(run: Callable[..., Shown], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("--objective", "sft", "--evaluate-every", 1, "--sample-every", 0, "--evaluation-clips", 1, "--json")
    row = trained(run("train", *SMALL, *words, "--out", out), out)
    assert row["clips/used"] == 2
    assert 0.5 < row["loss"] < 5.0
    # Rewards are not learnt from, but measured on held-out prompts as for every objective.
    assert "eval/motion_smoothness/gain" in row
    resumed = run("train", "--out", out, "--resume", "--iterations", 2, "--json")
    assert resumed.code == 0, resumed.err
    assert [row["iteration"] for row in rows(out)] == [0, 1, 2]


@pytest.mark.parametrize("preference", ["epipolar", "reprojection", "reward"])
def test_dpo_ranks_by(run: Callable[..., Shown], tmp_path: Path, preference: str) -> None:
    """The debug preset's frames are noise: pairs may be dropped, never invented."""
    out = tmp_path / "run"
    words = ("--objective", "dpo", "--preference", preference, "--pair-motion-floor", 0.1, "--group-size", 3)
    shown = run("train", *SMALL, *words, "--weights.scene-smoothness", 0, *QUIET, "--out", out)
    assert shown.code == 0, shown.err
    row = rows(out)[-1]
    assert row["pairs/used"] + row["pairs/dropped"] == 1
    name = "motion_smoothness" if preference == "reward" else preference
    assert {f"preference/{name}/mean", "preference/motion/winner"} <= row.keys()
    if row["pairs/used"]:
        assert row[f"preference/{name}/winner"] > row[f"preference/{name}/loser"]
        assert row["loss"] == pytest.approx(0.6931, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "wan2.1-t2v-1.3b"), ["no clips of its own", "--sft-clips FOLDER"]),
        (("--sft-clips", "nowhere"), ["nowhere is no folder"]),
        (("--prompts", "a.txt"), ["leave out --prompts"]),
    ],
)
def test_sft_without_clips(
    run: Callable[..., Shown], tmp_path: Path, options: tuple[object, ...], words: list[str]
) -> None:
    complaint = run("train", *options, "--objective", "sft", "--out", tmp_path / "run").complaint
    assert all(word in complaint for word in words), complaint
    assert list(tmp_path.iterdir()) == []


def test_sft_on_videos_without_captions_or_too_short_ones(run: Callable[..., Shown], tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_counting_video(videos / "0.mp4", 20)
    words = ("train", "--preset", "tiny-debug", "--objective", "sft", "--sft-clips", videos, "--out", tmp_path / "run")
    complaint = run(*words).complaint
    assert "No video" in complaint
    assert "has a caption" in complaint
    write_counting_video(videos / "1.mp4", 3)
    (videos / "1.txt").write_text("a red ball on a grey floor, the camera pans left")
    complaint = run(*words).complaint
    assert "gives no clip of 9 frames" in complaint
    assert "1.mp4: too short" in complaint
    assert not (tmp_path / "run").exists()


def test_a_released_models_kind_learns_from_a_folder_of_videos(run: Callable[..., Shown], tmp_path: Path) -> None:
    write_wan21(tmp_path / "wan21")
    write_geometry(tmp_path / "any4d")
    for index in range(6):
        path = write_counting_video(tmp_path / "videos" / f"{index}.mp4", 12 + index, fps=16, height=80, width=100)
        path.with_suffix(".txt").write_text(f"a grey room, the camera orbits left, number {index}")
    write_counting_video(tmp_path / "videos" / "silent.mp4", 20, fps=16)
    out = tmp_path / "run"
    sizes = [word for name, value in WAN21.items() for word in (f"--{name}", value)]
    shown = run(
        *("train", *sizes, "--model-folder", tmp_path / "wan21", "--geometry-weights", tmp_path / "any4d"),
        *("--reward-space", "rgb", "--objective", "sft", "--sft-clips", tmp_path / "videos", "--lora-rank", 2),
        *("--groups", 1, "--group-size", 2, "--noise-draws", 1, "--iterations", 1, "--micro-batch", 1, *QUIET),
        *("--out", out),
    )
    assert trained(shown, out)["clips/used"] == 2
    prompts = json.loads((out / "prompts.json").read_text())
    assert (len(prompts["training"]), len(prompts["evaluation"])) == (4, 2)
    assert not set(prompts["training"]) & set(prompts["evaluation"])
    listed = json.loads((out / "videos.json").read_text())
    assert [one["video"] for one in listed["skipped"]] == ["silent.mp4"]
    assert "no caption" in shown.err
