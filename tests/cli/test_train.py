"""``train`` from the command line: where settings come from, and what is said when they cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vggrpo.cli import training
from vggrpo.cli.commands import PretrainVae
from vggrpo.cli.train_bench import Cost, read_cost
from vggrpo.cli.train_settings import starting_settings
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import TrainingResult

SMALL = ("--preset", "tiny-debug", "--groups", 1, "--group-size", 2, "--evaluate-every", 0, "--sample-every", 0)
"""The debug preset judges with real geometry models: the smallest training that it allows."""


def test_trains_resumes_and_says_so(run: Callable, tmp_path: Path) -> None:
    options = (*SMALL, "--motion-guard", 0, "--weights.scene-smoothness", 0, "--out", tmp_path / "run", "--json")
    first = run("train", *options, "--iterations", 1)
    assert first.code == 0, first.err
    assert json.loads(first.out.splitlines()[-1])["iterations_done"] == 1
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["weights"] == {
        "motion_smoothness": 1.0,
        "geometry_consistency": 0.0,
        "scene_smoothness": 0.0,
        "more": {},
    }
    assert (settings["group_size"], settings["preset"]) == (2, "tiny-debug")
    resumed = run("train", "--out", tmp_path / "run", "--resume", "--iterations", 2, "--json")
    assert resumed.code == 0, resumed.err
    result = json.loads(resumed.out.splitlines()[-1])
    assert (result["iterations_done"], result["finished"]) == (2, True)
    assert Path(result["adapter"], "pytorch_lora_weights.safetensors").is_file()
    complaint = run("train", "--out", tmp_path / "run", "--resume", "--seed", 3).complaint
    assert "seed = 0, not 3" in complaint
    again = run("train", *SMALL, "--out", tmp_path / "run").complaint
    assert "add --resume" in again


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--preset", "tinny"), ["tinny", "'tiny'"]),
        (("--group-size", 1), ["group size is 1", "at least 2"]),
        (("--prompts", "nowhere.txt"), ["nowhere.txt", "does not exist"]),
        (("--adapter", "nowhere"), ["nowhere", "does not exist"]),
        (("--config", "nowhere.yaml"), ["nowhere.yaml", "does not exist"]),
        (("--window-end", 10), ["window range 0 10", "last is never trained"]),
        (("--noise-level", 0), ["noise level of 0"]),
        (("--advantage-std", "global"), ["advantage mode 'scalar'"]),
        (("--weights.motion-smoothness", 0, "--weights.geometry-consistency", 0), ["at least one of them positive"]),
    ],
)
def test_settings_that_cannot_be(run: Callable, tmp_path: Path, options: tuple[object, ...], words: list[str]) -> None:
    complaint = run("train", *options, "--out", tmp_path / "run").complaint
    assert all(word in complaint for word in words), complaint
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_file_with_an_unknown_key(run: Callable, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("groop_size: 8\n")
    complaint = run("train", "--config", file, "--out", tmp_path / "run").complaint
    assert "mine.yaml" in complaint
    assert "'groop_size' that does not exist: did you mean 'group_size'?" in complaint


def test_a_flag_that_does_not_exist_is_a_mistake(run: Callable, tmp_path: Path) -> None:
    shown = run("train", "--learning-rte", 1, "--out", tmp_path / "run")
    assert shown.code == 2
    assert "--learning-rate" in shown.err


def test_where_settings_come_from(tmp_path: Path) -> None:
    """Preset's table, then file, then flags; a resumed run has its own."""
    file = tmp_path / "config.yaml"
    file.write_text("preset: tiny-debug\nlearning_rate: 5e-4\nweights: {scene_smoothness: 2}\n")
    assert starting_settings(["train"]) == training_defaults("tiny")
    assert starting_settings(["generate", "--preset", "nothing"]) == GrpoConfig()
    assert starting_settings(["train", "--preset=tiny-debug"]) == training_defaults("tiny-debug")
    filed = starting_settings(["train", "--config", str(file), "--seed", "7"])
    debug = training_defaults("tiny-debug")
    assert (filed.preset, filed.learning_rate, filed.seed) == ("tiny-debug", 5e-4, 0)
    assert (filed.weights.scene_smoothness, filed.group_size) == (2.0, debug.group_size)
    named = starting_settings(["train", "--config", str(file), "--preset", "tiny"])
    assert (named.preset, named.group_size) == ("tiny", training_defaults("tiny").group_size)
    resumed = ["train", "--resume", "--out", str(tmp_path)]
    assert starting_settings(resumed) == filed
    with pytest.raises(UserError, match="leave out --config"):
        starting_settings([*resumed, "--config", str(file)])


def test_the_help_shows_the_presets_own_defaults(run: Callable) -> None:
    shown = run("train", "--preset", "tiny-debug", "--help")
    assert shown.code == 0
    text = " ".join(shown.out.replace("│", " ").split())
    assert "videos of one prompt that are compared with each other. At least 2, better 8 or more. (default: 4)" in text


def test_bench_prints_how_an_iteration_grows(run: Callable) -> None:
    shown = run("bench", "train", "--preset", "tiny-debug", "--repeats", 1, "--json")
    assert shown.code == 0, shown.err
    result = json.loads(shown.out.splitlines()[-1])
    variants = result["variants"]
    assert [variants[name]["steps"] for name in ("base", "steps", "group")] == [4, 8, 4]
    assert [variants[name]["group_size"] for name in ("base", "steps", "group")] == [4, 4, 2]
    assert {"rollout", "reward", "peak_mb"} <= result["ratios"]["twice the steps"].keys()
    assert all(variant["seconds"]["rollout"] > 0 for variant in variants.values())


def test_bench_reads_the_fastest_warm_iteration_that_updated(tmp_path: Path) -> None:
    rows = [
        {"time/iteration": 1.0, "time/rollout": 0.5, "time/update": 0.5, "update/applied": 1.0, "memory/peak_mb": 9.0},
        {"time/iteration": 4.0, "time/rollout": 2.0, "time/update": 2.0, "update/applied": 1.0, "memory/peak_mb": 7.0},
        {"time/iteration": 3.0, "time/rollout": 1.5, "time/update": 1.5, "update/applied": 1.0, "memory/peak_mb": 8.0},
        {"time/iteration": 2.0, "time/rollout": 2.0, "time/update": 0.0, "update/applied": 0.0, "memory/peak_mb": 8.0},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_cost(tmp_path) == Cost(seconds={"rollout": 1.5, "update": 1.5, "iteration": 3.0}, peak_mb=9.0)
    file.write_text("".join(json.dumps(row | {"update/applied": 0.0}) + "\n" for row in rows))
    assert read_cost(tmp_path) == Cost(seconds={"rollout": 2.0}, peak_mb=9.0)


def test_pretraining_writes_its_settings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and not over those of a run that it refuses to go on with."""
    monkeypatch.setattr(
        "vggrpo.pretraining.vae.pretrain_vae",
        lambda training, *_, **__: TrainingResult(steps_done=training.loop.steps, finished=True, seconds=0.0),
    )
    training.run(PretrainVae(out=tmp_path, steps=5))
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (settings["loop"]["steps"], settings["loop"]["seed"]) == (5, 0)
    (tmp_path / "checkpoints" / "step-000005").mkdir(parents=True)
    training.run(PretrainVae(out=tmp_path, steps=6))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == settings
    training.run(PretrainVae(out=tmp_path, steps=7, resume=True))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["loop"]["steps"] == 7
