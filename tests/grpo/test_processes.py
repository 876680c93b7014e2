"""Several processes are one training: the same result, equal weights, whole groups; one that dies ends the job.

Processes talk by gloo on the CPU; what NCCL does differently is when it notices a dead process.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.grpo.test_trainer import logged, state
from tests.grpo.together import Together, start
from tests.grpo.toy import CONFIG, PROMPTS, Brightness, make_models, run
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.trainer import TrainProgress, train
from vggrpo.policy.adapter import adapter_parameters
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.errors import UserError

TOGETHER = replace(CONFIG, groups=4, iterations=2, evaluate_every=2, micro_batch=2)
"""Four groups: one to four for each process. Two held-out videos: of four processes, two have none."""
SHARDED = replace(TOGETHER, shard_base=True, sample_every=2, updates=3, gradient_checkpointing=True)


def work(rank: int, config: GrpoConfig, out: Path) -> None:
    """Train; leave the adapter as it is when the last iteration begins, and how many videos were judged at once."""
    rewards = Brightness()
    models = make_models(rewards)

    def remember(progress: TrainProgress) -> None:
        if progress.iteration == config.iterations and progress.phase == "rollout":
            weights = {name: p.detach().clone() for name, p in adapter_parameters(models.transformer).items()}
            held = sum(p.to_local().numel() for p in models.transformer.parameters() if hasattr(p, "to_local"))
            facts = {"judged": json.dumps(rewards.judged), "held": str(held)}
            save_file(weights, out.with_name(f"{out.name}-{rank}.safetensors"), metadata=facts)

    # The command line's way with a user's mistake, without its parser.
    try:
        train(config, models, prompts=PROMPTS, out=out, on_progress=remember)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def facts(out: Path, rank: int) -> dict[str, str]:
    with safe_open(out.with_name(f"{out.name}-{rank}.safetensors"), "pt") as file:
        return dict(file.metadata())


def finished(config: GrpoConfig, out: Path, *, count: int) -> Path:
    together = start(work, config, out, count=count, folder=out.with_name(f"{out.name}-logs"))
    codes = together.wait()
    assert codes == (0,) * count, [together.said(rank)[-2000:] for rank in range(count)]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(out, TOGETHER)
    return out


@pytest.fixture(scope="module", params=[2, 4])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    count = request.param
    return finished(TOGETHER, tmp_path_factory.mktemp(f"of{count}") / "run", count=count), count


def test_processes_hold_equal_weights_and_whole_groups(several: tuple[Path, int]) -> None:
    out, count = several
    weights = [load_file(out.with_name(f"run-{rank}.safetensors")) for rank in range(count)]
    assert any(bool(values.any()) for name, values in weights[0].items() if "lora_B" in name)
    for rank in range(count):
        assert all(torch.equal(weights[0][name], weights[rank][name]) for name in weights[0])
        # Held-out videos come first. Then no group is torn apart: every process judges its own, all members of each.
        assert json.loads(facts(out, rank)["judged"])[-1] == TOGETHER.groups // count * TOGETHER.group_size


def test_processes_do_what_one_does(several: tuple[Path, int], alone: Path) -> None:
    out, _ = several
    assert_like(out, alone)


def assert_like(out: Path, other: Path) -> None:
    together, one = state(out, 2), state(other, 2)
    assert together.keys() == one.keys()
    for name, values in one.items():
        torch.testing.assert_close(together[name], values, rtol=1e-3, atol=1e-6)
    for left, right in zip(logged(out), logged(other), strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-5, nan_ok=True)


def test_a_shared_out_base_changes_nothing_but_memory(tmp_path: Path) -> None:
    """Three updates among four groups of two micro-batches: the processes have different numbers in each."""
    sharded = finished(SHARDED, tmp_path / "sharded", count=2)
    run(tmp_path / "alone", replace(SHARDED, shard_base=False))
    assert_like(sharded, tmp_path / "alone")
    weights = sum(p.numel() for p in make_models().transformer.parameters())
    # Half of the base each; what does not divide by two is padded.
    assert [int(facts(sharded, rank)["held"]) for rank in range(2)] == pytest.approx([weights / 2] * 2, rel=0.02)
    exported = load_file(sharded / "checkpoints" / "step-000002" / "pytorch_lora_weights.safetensors")
    assert exported
    assert all("lora" in name for name in exported)
    assert all("lora" in name for name in state(sharded, 2))
    grids = [out / "samples" / "step-000002" / "grid.mp4" for out in (sharded, tmp_path / "alone")]
    assert all(grid.is_file() for grid in grids)


def test_a_killed_process_ends_the_job_and_another_one_goes_on(tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    config = replace(TOGETHER, iterations=1000, evaluate_every=0)
    together = start(work, config, out, count=2, folder=tmp_path / "logs")
    wait_for_checkpoint(together, out)
    victim = together.processes[1].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    assert together.wait() == (2, -signal.SIGKILL)
    lines = [line for line in together.said(0).splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "another of the 2 processes of this training ended" in lines[0]
    assert "--resume" in lines[0]
    assert json.loads((out / "status.json").read_text())["state"] == "failed"
    done = int(checkpoint_folders(out)[-1].name[5:])
    resumed = run(out, replace(config, iterations=done + 1), resume=True)
    assert (resumed.iterations_done, resumed.finished) == (done + 1, True)


def wait_for_checkpoint(together: Together, out: Path) -> None:
    deadline = time.monotonic() + 240.0
    while not checkpoint_folders(out):
        alive = all(process.is_alive() for process in together.processes)
        assert alive, together.said(0)
        assert time.monotonic() < deadline
        time.sleep(0.05)


CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"


@pytest.mark.parametrize("name", ["ddp", "fsdp", "multi_node"])
def test_shipped_configurations_are_read_as_they_are_meant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By accelerate's own parser, which refuses unknown keys; and by what its launcher would tell the processes."""
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "vggrpo", "train"]
    )
    filled, _, _ = _validate_launch_command(arguments)
    environment = prepare_multi_gpu_env(filled)
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (name == "fsdp")
    assert filled.num_machines == config.num_machines == (2 if name == "multi_node" else 1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", environment.get("ACCELERATE_USE_FSDP", "false"))
    processes = Processes.open(device=torch.device("cpu"), out=CONFIGS)
    assert processes.shard_base == (name == "fsdp")
    # One process alone has nobody to share with.
    assert not processes.in_step
