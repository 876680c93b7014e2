"""What goes wrong in a training: a clear line, and nothing that was good is lost."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.grpo.toy import CONFIG, PROMPTS, Brightness, make_models, run
from vggrpo.grpo import policy_gradient
from vggrpo.grpo.clipped_surrogate import StepLoss
from vggrpo.grpo.config import MAY_CHANGE_ON_RESUME, GrpoConfig, require_same_run
from vggrpo.grpo.trainer import train
from vggrpo.policy.adapter import adapter_parameters
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.config_file import read_mapping, with_settings, write_config
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.run_lock import RunLock
from vggrpo.types import Latents


def status(out: Path) -> dict[str, object]:
    return json.loads((out / "status.json").read_text())


def adapter(out: Path, iteration: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{iteration:06d}" / "state.safetensors")


def test_a_folder_in_use(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        run(tmp_path)
    assert not (tmp_path / "status.json").exists()


def test_a_lock_that_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("999999\n")
    assert run(tmp_path, replace(CONFIG, iterations=1)).finished
    assert not (tmp_path / "lock").exists()


def test_a_lock_names_its_process(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    with RunLock(tmp_path):
        pass


def test_a_run_is_not_begun_over_another_one(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, iterations=1))
    with pytest.raises(UserError, match="add --resume"):
        run(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="other files"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more into one file, as a full disk does. Python ignores the signal of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_while_checkpointing(tmp_path: Path) -> None:
    run(tmp_path, replace(CONFIG, iterations=2))
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    with (
        files_of_at_most(20_000),
        pytest.raises(UserError, match=r"step 3 cannot be written .* step-000002 is untouched: free space .* --resume"),
    ):
        run(tmp_path, CONFIG, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()} == before
    assert status(tmp_path)["state"] == "failed"
    run(tmp_path, CONFIG, resume=True)
    run(tmp_path.with_name("straight"), CONFIG)
    left, right = adapter(tmp_path, 4), adapter(tmp_path.with_name("straight"), 4)
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_a_disk_that_is_so_full_that_not_even_the_reason_can_be_written(tmp_path: Path) -> None:
    with files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        run(tmp_path, CONFIG)


def test_a_second_interruption_stops_at_once(tmp_path: Path) -> None:
    def interrupt(_latents: Latents) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, models=make_models(Brightness(before=interrupt)))
    assert status(tmp_path)["state"] == "stopped"
    assert run(tmp_path, replace(CONFIG, iterations=1), resume=True).finished


def test_every_reward_nan(tmp_path: Path) -> None:
    rewards = Brightness()
    models = make_models(rewards)

    def spoil(latents: Latents) -> None:
        if len(rewards.judged) >= 2:
            latents.tensor.fill_(torch.nan)

    rewards.before = spoil
    with pytest.raises(UserError, match="3 iterations in a row changed nothing: no video could be judged"):
        run(tmp_path, replace(CONFIG, iterations=50, max_skipped=3), models=models)
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-000001", "step-000002"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward/nan_frac"] for row in rows] == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert rows[-1]["reward/motion_smoothness/mean"] is None


def test_a_group_without_spread_changes_nothing(tmp_path: Path) -> None:
    rewards = Brightness(before=lambda latents: latents.tensor.fill_(0.5))
    with pytest.raises(UserError, match="got the same reward"):
        run(tmp_path, replace(CONFIG, iterations=50, max_skipped=2), models=make_models(rewards))


@pytest.mark.parametrize("always", [False, True])
def test_a_loss_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: bool) -> None:
    """Skipped and counted; the weights and moments stay as they were. Several in a row end the run."""
    calls = []

    def broken(*arguments: object, **options: object) -> StepLoss:
        calls.append(1)
        loss = genuine(*arguments, **options)
        # The second iteration: two groups of one micro-batch, two window steps each.
        return replace(loss, loss=loss.loss * torch.nan) if len(calls) in range(5, 9) or always else loss

    genuine = policy_gradient.step_loss
    monkeypatch.setattr(policy_gradient, "step_loss", broken)
    if always:
        with pytest.raises(UserError, match=r"not finite: .* lower --learning-rate"):
            run(tmp_path, replace(CONFIG, iterations=50, max_skipped=2))
        assert checkpoint_folders(tmp_path) == []
        return
    run(tmp_path, replace(CONFIG, iterations=3, checkpoint_every=1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["update/applied"] for row in rows] == [1.0, 0.0, 1.0]
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step-000001", "step-000003"]
    assert json.loads((checkpoint_folders(tmp_path)[-1] / "state.json").read_text())["updates"] == 2
    assert all(values.isfinite().all() for values in adapter(tmp_path, 3).values())


def test_a_replay_that_does_not_repeat_the_rollout(tmp_path: Path) -> None:
    """Weights that change between rollout and update: the ratio is off, and nothing may be learnt from it."""
    rewards = Brightness()
    models = make_models(rewards)

    def disturb(_latents: Latents) -> None:
        for name, parameter in adapter_parameters(models.transformer).items():
            if "lora_B" in name:
                parameter.data.fill_(0.05)

    rewards.before = disturb
    with pytest.raises(UserError, match=r"every ratio must be 1, but one is off by .*--micro-batch"):
        run(tmp_path, CONFIG, models=models)
    assert status(tmp_path)["state"] == "failed"
    assert checkpoint_folders(tmp_path) == []


def test_a_prompt_that_the_model_cannot_read(tmp_path: Path) -> None:
    def refuse(prompt: str) -> None:
        raise UserError(f"no word of {prompt}")

    models = replace(make_models(), check_prompt=refuse)
    with pytest.raises(UserError, match="no word of one"):
        train(CONFIG, models, prompts=PROMPTS, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_groups_that_processes_cannot_share(tmp_path: Path) -> None:
    from vggrpo.grpo.processes import Processes

    class OfThree(Processes):
        @property
        def count(self) -> int:
            return 3

    processes = OfThree.open(device=torch.device("cpu"), out=tmp_path)
    assert list(processes.share(6)) == [0, 1]
    with pytest.raises(UserError, match="multiple of 3"):
        processes.share(8)


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggrpo.grpo.processes.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install trackio"):
        run(tmp_path / "run", replace(CONFIG, trackers=("trackio",)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"group_size": 1}, "compared with each other; give at least 2"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0; give a positive number"),
        ({"guidance": 0.5}, "--guidance"),
        ({"ema_decay": 1.0}, "--ema-decay"),
        ({"seed": -1}, "--seed"),
        ({"early_stop": "eval/score", "evaluate_every": 0}, "--evaluate-every"),
        ({"early_stop": "loss", "evaluate_every": 1}, "no held-out metric"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **changed)


def test_a_resumed_run_keeps_its_settings() -> None:
    assert require_same_run(CONFIG, CONFIG) is None
    longer = replace(CONFIG, iterations=99, evaluate_every=3, sample_every=1, checkpoint_every=7)
    assert require_same_run(CONFIG, longer) is None
    assert set(CONFIG.differences(longer)) <= MAY_CHANGE_ON_RESUME
    with pytest.raises(UserError, match=r"learning_rate = 0.0001, not 0.5.*--learning-rate"):
        require_same_run(CONFIG, replace(CONFIG, learning_rate=0.5))


def test_config_yaml_gives_the_settings_back(tmp_path: Path) -> None:
    config = replace(CONFIG, prompts=Path("a.txt"), trackers=("tensorboard",), noise_level=0.2, kl="none")
    write_config(tmp_path, config)
    settings = read_mapping(tmp_path / "config.yaml")
    assert with_settings(GrpoConfig(), settings, source="config.yaml") == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rte: 1e-4", r"'learning_rte' that does not exist: did you mean 'learning_rate'\?"),
        ("weights: {motion_smothness: 1}", r"weights: .*did you mean 'motion_smoothness'\?"),
        ("steps: ten", "steps is 'ten'; give a whole number"),
        ("steps: true", "steps is True; give a whole number"),
        ("transition: cosine", "one of flow_sde, linear, constant, cps"),
        ("same_noise: 1", "true or false"),
        ("lora_targets: to_q", "a list"),
        ("- 1", "name: value"),
        ("a: [", "cannot be read as YAML"),
        ("group_size: 1", "at least 2"),
    ],
)
def test_a_configuration_file_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        with_settings(CONFIG, read_mapping(file), source=str(file))


def test_a_number_as_yaml_and_people_write_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-4\nmotion_guard: 2\nnoise_level:\n")
    config = with_settings(replace(CONFIG, noise_level=1.0), read_mapping(tmp_path / "c.yaml"), source="c.yaml")
    assert (config.learning_rate, config.motion_guard, config.noise_level) == (1e-4, 2.0, None)
