"""The training: a resumed run is the uninterrupted run, and a toy reward rises."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.grpo.toy import CONFIG, Brightness, make_models, run
from vggrpo.grpo.config import GrpoConfig
from vggrpo.policy.adapter import load_adapter
from vggrpo.policy.backbone import predict_velocity
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.video_file import read_video
from vggrpo.types import Latents

ROOT = Path(__file__).parents[2]
PROCESS = [sys.executable, "-m", "tests.grpo.toy_process"]


def logged(out: Path) -> list[dict[str, float]]:
    """The run's metrics, but for what depends on the machine."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


def state(out: Path, iteration: int) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step-{iteration:06d}" / "state.safetensors")


def status(out: Path) -> dict[str, object]:
    return json.loads((out / "status.json").read_text())


def assert_same_run(a: Path, b: Path, *, iteration: int) -> None:
    """Bit for bit: weights, averages, moments, exports and metrics."""
    left, right = state(a, iteration), state(b, iteration)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert logged(a) == logged(b)
    exported = [load_file(out / "adapter" / "pytorch_lora_weights.safetensors") for out in (a, b)]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0] | exported[1])


RECIPES = {
    "plain": CONFIG,
    "two updates, guard, evaluation": replace(
        CONFIG, updates=2, micro_batch=2, motion_guard=1.0, evaluate_every=1, early_stop="eval/score", kl="gaussian"
    ),
    "ratio norm, no average, checkpointing": replace(
        CONFIG, ratio_norm=True, clip_range=2e-6, ema_decay=0.0, gradient_checkpointing=True, transition="flow_sde"
    ),
}


@pytest.mark.parametrize("config", RECIPES.values(), ids=RECIPES)
def test_two_iterations_and_two_more_are_four(tmp_path: Path, config: GrpoConfig) -> None:
    run(tmp_path / "straight", config)
    run(tmp_path / "parts", replace(config, iterations=2))
    assert [row["iteration"] for row in logged(tmp_path / "parts")][-1] == 2
    result = run(tmp_path / "parts", config, resume=True)
    assert (result.iterations_done, result.finished) == (4, True)
    assert_same_run(tmp_path / "straight", tmp_path / "parts", iteration=4)


def test_killed_at_a_random_moment_and_resumed(tmp_path: Path) -> None:
    """kill -9: no handler runs, the lock stays behind, and the last line or checkpoint may be half written."""
    killed = tmp_path / "killed"
    process = subprocess.Popen([*PROCESS, str(killed), "1000"], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not checkpoint_folders(killed):
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 1.5))
    process.kill()
    process.wait()
    assert status(killed)["state"] == "running"
    done = int(checkpoint_folders(killed)[-1].name[5:])
    config = replace(CONFIG, iterations=done + 2)
    run(killed, config, resume=True)
    run(tmp_path / "straight", config)
    assert_same_run(tmp_path / "straight", killed, iteration=done + 2)


def test_a_half_written_checkpoint_is_never_picked_up(tmp_path: Path) -> None:
    run(tmp_path / "straight", CONFIG)
    run(tmp_path / "broken", replace(CONFIG, iterations=3))
    newest = tmp_path / "broken" / "checkpoints" / "step-000003"
    content = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(content[: len(content) // 2])
    hidden = newest.with_name(".step-000004.123")
    hidden.mkdir()
    (hidden / "state.safetensors").write_bytes(content[:100])
    run(tmp_path / "broken", CONFIG, resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "broken", iteration=4)
    assert not hidden.exists()


def test_no_checkpoint_can_be_read(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, iterations=2))
    for folder in checkpoint_folders(tmp_path):
        (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match="No checkpoint"):
        run(tmp_path, CONFIG, resume=True)


def test_a_wish_to_stop_finishes_the_iteration_and_keeps_it(tmp_path: Path) -> None:
    rewards = Brightness()

    def stop_in_the_second_iteration(_latents: Latents) -> None:
        if len(rewards.judged) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    rewards.before = stop_in_the_second_iteration
    config = replace(CONFIG, checkpoint_every=100)
    result = run(tmp_path / "stopped", config, models=make_models(rewards))
    assert (result.iterations_done, result.finished) == (2, False)
    assert status(tmp_path / "stopped")["state"] == "stopped"
    assert not (tmp_path / "stopped" / "lock").exists()
    run(tmp_path / "stopped", config, resume=True)
    run(tmp_path / "straight", config)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped", iteration=4)


def test_a_toy_reward_rises(tmp_path: Path) -> None:
    """Brightness, from samples that share their initial noise: what a video gains, it gains inside the window."""
    config = replace(
        CONFIG, iterations=25, group_size=8, micro_batch=8, same_noise=True, learning_rate=1e-2, evaluate_every=25
    )
    run(tmp_path, config)
    rows = logged(tmp_path)
    brightness = [row["reward/motion_smoothness/mean"] for row in rows[1:]]
    early, late = sum(brightness[:5]) / 5, sum(brightness[-5:]) / 5
    spread = rows[1]["reward/motion_smoothness/std"]
    assert late - early > 10 * spread
    assert rows[-1]["eval/motion_smoothness/gain"] > 10 * spread
    assert rows[-1]["eval/motion_smoothness/base"] == rows[0]["eval/motion_smoothness/mean"]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluate_every=2, sample_every=2, motion_guard=1.0, trackers=("tensorboard",))
    run(tmp_path, config)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "metrics.jsonl",
        "status.json",
        "train.log",
        "adapter/pytorch_lora_weights.safetensors",
        "checkpoints/step-000004/pytorch_lora_weights.safetensors",
        "samples/prompts.json",
        "samples/base/0-0.mp4",
        "samples/step-000002/1-1.mp4",
        "samples/step-000004/grid.mp4",
    } <= names
    assert any(name.startswith("trackers/") and "tfevents" in name for name in names)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-000003", "step-000004"]
    last = logged(tmp_path)[-1]
    assert last["ratio/abs_dev_max"] == 0.0
    assert {"clip_frac", "kl", "grad_norm", "group/zero_std_ratio", "reward/nan_frac"} <= last.keys()
    assert {"guard/camera_path_length", "eval/motion_smoothness/mean", "reward/motion_smoothness/std"} <= last.keys()
    assert status(tmp_path) | {"pid": 0} == {
        "state": "finished",
        "iteration": 4,
        "iterations": 4,
        "pid": 0,
        "message": "",
        "seconds_left": None,
    }
    grid = read_video(tmp_path / "samples" / "step-000004" / "grid.mp4", max_frames=99).frames
    assert grid.shape == (4, 32, 32, 3)


def test_sample_videos_are_those_of_the_prompt_seed_and_adapter(tmp_path: Path) -> None:
    """With a learning rate that moves nothing, tuned and base videos are the same file."""
    run(tmp_path, replace(CONFIG, iterations=1, sample_every=1, learning_rate=1e-30))
    for name in ("0-0.mp4", "1-1.mp4"):
        folders = [tmp_path / "samples" / folder / name for folder in ("base", "step-000001")]
        assert folders[0].read_bytes() == folders[1].read_bytes()
    assert (tmp_path / "samples/base/0-0.mp4").read_bytes() != (tmp_path / "samples/base/1-1.mp4").read_bytes()


def test_the_exported_adapter_is_the_average_and_can_be_trained_on(tmp_path: Path) -> None:
    run(tmp_path / "first", replace(CONFIG, learning_rate=1e-2))
    average = {
        n.removeprefix("average/"): v for n, v in state(tmp_path / "first", 4).items() if n.startswith("average")
    }
    models = make_models()
    latents = torch.randn(1, *models.latent_shape, generator=torch.Generator().manual_seed(1))
    arguments = (latents, torch.full((1, 2), 0.5), models.embed("x"))
    with torch.no_grad():
        base = predict_velocity(models.transformer, *arguments)
        load_adapter(models.transformer, tmp_path / "first" / "adapter")
        loaded = {n.replace(".user.", ".default."): p for n, p in models.transformer.named_parameters() if "lora" in n}
        assert loaded.keys() == average.keys()
        assert all(torch.equal(loaded[name], average[name]) for name in average)
        assert not torch.equal(predict_velocity(models.transformer, *arguments), base)
    second = replace(CONFIG, adapter=tmp_path / "first" / "adapter", iterations=2, lora_rank=7)
    run(tmp_path / "straight", second)
    run(tmp_path / "parts", replace(second, iterations=1))
    (tmp_path / "first" / "adapter" / "pytorch_lora_weights.safetensors").unlink()
    run(tmp_path / "parts", second, resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "parts", iteration=2)


def test_the_models_come_back_as_they_were(tmp_path: Path) -> None:
    models = make_models()
    before = {name: values.clone() for name, values in models.transformer.state_dict().items()}
    run(tmp_path, replace(CONFIG, gradient_checkpointing=True), models=models)
    after = models.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not models.transformer.is_gradient_checkpointing


def test_early_stop(tmp_path: Path) -> None:
    """A metric that cannot rise: the camera path is the same for every video."""
    config = replace(
        CONFIG, iterations=50, evaluate_every=1, early_stop="eval/camera_path_length/mean", early_stop_patience=2
    )
    result = run(tmp_path, config)
    assert (result.iterations_done, result.finished) == (3, True)
    assert "early stop" in result.message
    assert status(tmp_path)["state"] == "finished"


def test_early_stop_on_a_metric_that_is_not_there(tmp_path: Path) -> None:
    config = replace(CONFIG, evaluate_every=1, early_stop="eval/motion_smoothness")
    with pytest.raises(UserError, match="eval/motion_smoothness/mean"):
        run(tmp_path, config)
    assert status(tmp_path)["state"] == "failed"
