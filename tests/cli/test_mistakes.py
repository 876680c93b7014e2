"""Bad input: each gives one line that names the thing, exit code 2, and leaves nothing half-written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards.analytic import make_scene
from vggrpo import presets
from vggrpo.runtime import run_folder
from vggrpo.runtime.integrity import sha256_of
from vggrpo.types import ClipGeometry

PROMPT = "a red sphere on a grey tiled floor"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def generate(run: Callable, tmp_path: Path) -> Callable:
    """``generate`` with the debug preset and a good request, but for what is given; checks that no file is left."""

    def call(**options: object) -> str:
        given = {"prompt": PROMPT, "preset": "tiny-debug", "out": tmp_path / "made" / "run"} | options
        before = sorted(tmp_path.rglob("*"))
        complaint = run("generate", *(word for name, value in given.items() for word in (f"--{name}", value))).complaint
        assert sorted(tmp_path.rglob("*")) == before
        return complaint

    return call


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "tinny"}, ["tinny", "'tiny'"]),
        ({"seed": -1}, ["seed", "-1", "0"]),
        ({"prompt": "  "}, ["prompt is empty"]),
        ({"prompt": "red " * 600}, ["2400 characters", "2000"]),
        ({"prompt": "red " * 200}, ["201 tokens", "64"]),
        ({"steps": 0}, ["0 denoising steps"]),
        ({"guidance": "nan"}, ["guidance"]),
        ({"reward-guidance": "-1"}, ["reward guidance scale is -1", "give 0"]),
        ({"reward-guidance": "nan"}, ["reward guidance scale is nan"]),
        ({"reward-guidance": 5, "reward-guidance-every": 0}, ["every 0 steps"]),
        ({"reward-guidance": 5, "reward-guidance-every": 3}, ["every 3 steps never acts in 2 steps"]),
        ({"reward-guidance-every": 2}, ["--reward-guidance-every needs --reward-guidance"]),
        ({"first-frame": "nowhere.png"}, ["nowhere.png", "does not exist"]),
        ({"adapter": "nowhere.safetensors"}, ["nowhere.safetensors", "does not exist"]),
    ],
)
def test_a_request_that_cannot_be(generate: Callable, options: dict[str, object], words: list[str]) -> None:
    complaint = generate(**options)
    assert all(word in complaint for word in words), complaint


def test_files_that_are_not_what_they_are_given_as(generate: Callable, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "cannot be read as an image" in generate(**{"first-frame": text})
    assert "holds no LoRA" in generate(adapter=text)


def test_an_output_folder_that_cannot_be_written(generate: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I am no folder")
    assert "is a file" in generate(out=tmp_path / "file" / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert "other files" in generate(out=tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/version").exists(), reason="root may write everywhere")
def test_an_output_folder_without_permission(generate: Callable) -> None:
    """/proc refuses new folders even to root."""
    assert "not writable" in generate(out="/proc/run")


def arrays() -> dict[str, np.ndarray]:
    clip = ClipGeometry.from_scene(make_scene(dtype=torch.float32))
    return {field.name: getattr(clip, field.name) for field in fields(clip)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth": None}, ["no array 'depth'", "[N, H, W]"]),
        ({"points": arrays()["points"][..., :2]}, ["'points'", "[9, 64, 64, 2]", "[9, 64, 64, 3]"]),
        ({"intrinsics": np.full_like(arrays()["intrinsics"], np.nan)}, ["'intrinsics'", "NaN"]),
    ],
)
def test_a_geometry_with_a_missing_misshaped_or_nan_array(
    run: Callable, tmp_path: Path, change: dict[str, np.ndarray | None], words: list[str]
) -> None:
    content = {name: array for name, array in (arrays() | change).items() if array is not None}
    np.savez(tmp_path / "g.npz", **content)
    complaint = run("score", "--geometry", tmp_path / "g.npz", "--out", tmp_path / "out").complaint
    assert all(word in complaint for word in words), complaint
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"]


def test_videos_that_are_none_or_too_short(run: Callable, tmp_path: Path) -> None:
    text, short = tmp_path / "notes.mp4", tmp_path / "short.mp4"
    text.write_text("hello\n" * 50)
    run_folder.write_video(short, np.zeros((2, 64, 64, 3), dtype=np.uint8), fps=8)
    for file, words in ((text, "cannot be read as a video"), (short, "has 2 frames; at least 9")):
        options = ("--video", file, "--preset", "tiny-debug", "--out", tmp_path / "out")
        assert words in run("score", *options).complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.mp4", "short.mp4"]


def test_score_takes_exactly_one_source_that_exists(run: Callable, tmp_path: Path) -> None:
    assert "exactly one" in run("score", "--out", tmp_path / "out").complaint
    both = ("--geometry", tmp_path / "a", "--video", tmp_path / "b", "--out", tmp_path / "out")
    assert "2 were given" in run("score", *both).complaint
    assert "does not exist" in run("score", "--geometry", tmp_path / "a", "--out", tmp_path / "out").complaint


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "no manifest"])
def test_damaged_weights_are_named_before_they_are_used(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    assets = tmp_path / "assets"
    weights = assets / "tiny" / "vae" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights" * 100)
    listed = {"tiny/vae/model.safetensors": {"bytes": 700, "sha256": sha256_of(weights)}}
    (assets / "MANIFEST.json").write_text(json.dumps({"files": listed}))
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(b"weights" * 50)
    elif damage == "altered":
        weights.write_bytes(b"weighty" * 100)
    else:
        (assets / "MANIFEST.json").unlink()
    tiny = presets.get_preset("tiny")
    assert tiny.folders is not None
    moved = replace(tiny, folders=replace(tiny.folders, root=assets, manifest=assets / "MANIFEST.json"))
    monkeypatch.setattr(presets, "PRESETS", {"tiny": moved})
    complaint = run("generate", "--prompt", PROMPT, "--out", tmp_path / "run").complaint
    assert ("MANIFEST.json is missing" if damage == "no manifest" else str(weights)) in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "vae", "--seed", "-2"), "seed"),
        (("pretrain", "geometry", "--steps", "0"), "0 training steps"),
        (("pretrain", "video", "--vae", "nowhere"), "pretrain vae"),
        (("pretrain", "ship", "--runs", "nowhere"), "pretrain vae"),
        (("train-lgm", "--pipeline", "nowhere"), "pretrain video"),
        (("examples", "--only", "nothing"), "no example 'nothing'"),
        (("bench", "generate", "--repeats", "0"), "at least 1"),
        (("bench", "reward", "--repeats", "0"), "at least 1"),
        (("bench", "reward", "--videos", "0"), "0 videos"),
        (("bench", "train", "--record"), "bench train records nothing"),
    ],
)
def test_training_commands_say_what_has_to_come_first(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in run(*arguments).complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("generat",), ("generate", "--prompt", "x"), ("score", "--out")])
def test_usage_errors_have_the_same_exit_code(run: Callable, arguments: tuple[str, ...]) -> None:
    shown = run(*arguments)
    assert shown.code == 2
    assert shown.err


def test_the_process_itself_ends_with_one_line_and_code_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vggrpo", "score", "--geometry", str(tmp_path / "no.npz"), "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"error: {tmp_path / 'no.npz'} does not exist.\n"
    assert ended.stdout == ""
