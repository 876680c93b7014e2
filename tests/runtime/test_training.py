"""The training loop: a resumed run is the uninterrupted run, and a bad step never reaches the weights."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vggrpo.runtime.device import set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, learning_rate_at

CONFIG = LoopConfig(steps=4, learning_rate=0.05, warmup_steps=2, ema_decay=0.9, checkpoint_every=1, weight_decay=0.01)
Losses = Callable[[Step], dict[str, Tensor]]


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).to(dtype)


def noisy_regression(model: nn.Module, *, stop_after: int = 1000) -> Losses:
    """A loss that draws on both of the step's generators; asks the process to stop in step ``stop_after``."""

    def losses(step: Step) -> dict[str, Tensor]:
        if step.index == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randn(8, 3, generator=step.generator)
        y = torch.from_numpy(step.rng.standard_normal((8, 2))).float()
        error = model(x.to(model.weight.dtype)).float() - y
        return {"loss": error.square().mean(), "bias": error.mean()}

    return losses


def logged(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def run(out: Path, *, resume: bool = False, stop_after: int = 1000, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = make_model(dtype)
    TrainingLoop({"net": model}, CONFIG, out).run(noisy_regression(model, stop_after=stop_after), resume=resume)
    return model


def state(out: Path, step: int) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}" / "state.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_and_resumed_equals_straight_through(tmp_path: Path, dtype: torch.dtype) -> None:
    straight = run(tmp_path / "straight", dtype=dtype)
    run(tmp_path / "stopped", stop_after=1, dtype=dtype)
    assert [row["step"] for row in logged(tmp_path / "stopped")] == [1, 2]
    resumed = run(tmp_path / "stopped", resume=True, dtype=dtype)
    for name, parameter in straight.state_dict().items():
        assert torch.equal(parameter, resumed.state_dict()[name])
    expected, got = state(tmp_path / "straight", 4), state(tmp_path / "stopped", 4)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert logged(tmp_path / "straight") == logged(tmp_path / "stopped")


def test_the_step_is_adamw_with_clipping(tmp_path: Path) -> None:
    """Second route: torch's own AdamW on the same losses."""
    config = LoopConfig(steps=3, learning_rate=0.05, warmup_steps=2, gradient_clip=0.1, weight_decay=0.01)
    model, reference = make_model(), make_model()
    TrainingLoop({"net": model}, config, tmp_path).run(noisy_regression(model), resume=False)
    optimiser = torch.optim.AdamW(reference.parameters(), lr=1.0, betas=config.betas, weight_decay=0.01)
    for index in range(3):
        optimiser.param_groups[0]["lr"] = learning_rate_at(index, config)
        optimiser.zero_grad()
        noisy_regression(reference)(Step.of(index, config))["loss"].backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        optimiser.step()
    torch.testing.assert_close(model.weight, reference.weight, rtol=0, atol=0)


class Blocks(nn.Module):
    """Two hidden matrices, one of them in a table that is looked up, and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({"mlp": nn.Linear(3, 3), "relative_attention_bias": nn.Embedding(4, 3)})
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        table = self.blocks["relative_attention_bias"].weight
        return self.out(torch.tanh(self.blocks["mlp"](x + table.mean(0))))

    @property
    def weight(self) -> Tensor:
        return self.out.weight


MUON = LoopConfig(
    steps=4, learning_rate=0.05, warmup_steps=2, weight_decay=0.01, optimiser="muon", checkpoint_every=1, ema_decay=0.9
)


def make_blocks() -> Blocks:
    torch.manual_seed(0)
    return Blocks()


def test_muon_moves_hidden_matrices_and_adamw_the_rest(tmp_path: Path) -> None:
    """Second route: torch's own optimisers, each with the parameters that are its own."""
    model, reference = make_blocks(), make_blocks()
    TrainingLoop({"net": model}, MUON, tmp_path).run(noisy_regression(model), resume=False)
    hidden = [reference.blocks["mlp"].weight]
    rest = [p for p in reference.parameters() if p is not hidden[0]]
    muon = torch.optim.Muon(hidden, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=1.0, betas=MUON.betas, weight_decay=0.01)
    for index in range(MUON.steps):
        for optimiser in (muon, adamw):
            optimiser.param_groups[0]["lr"] = learning_rate_at(index, MUON)
            optimiser.zero_grad()
        noisy_regression(reference)(Step.of(index, MUON))["loss"].backward()
        nn.utils.clip_grad_norm_(reference.parameters(), MUON.gradient_clip)
        muon.step()
        adamw.step()
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_run_with_muon_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    straight, stopped, resumed = make_blocks(), make_blocks(), make_blocks()
    TrainingLoop({"net": straight}, MUON, tmp_path / "a").run(noisy_regression(straight), resume=False)
    TrainingLoop({"net": stopped}, MUON, tmp_path / "b").run(noisy_regression(stopped, stop_after=1), resume=False)
    TrainingLoop({"net": resumed}, MUON, tmp_path / "b").run(noisy_regression(resumed), resume=True)
    expected, got = state(tmp_path / "a", 4), state(tmp_path / "b", 4)
    assert expected.keys() == got.keys()
    assert any(key.startswith("optimiser/momentum_buffer/") for key in expected)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_bf16_models_learn_from_steps_that_bf16_cannot_hold(tmp_path: Path) -> None:
    """Steps of 1e-4 on weights near 1 vanish in bf16; the fp32 masters add them up."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    config = LoopConfig(steps=100, learning_rate=1e-4, warmup_steps=0, final_learning_rate=1.0)
    TrainingLoop({"net": model}, config, tmp_path).run(lambda _: {"loss": model.weight.float().sum()}, resume=False)
    assert model.weight.item() == pytest.approx(0.99, abs=4e-3)


def test_ema_starts_short_and_follows_the_masters(tmp_path: Path) -> None:
    model = make_model()
    seen = []
    loop = TrainingLoop({"net": model}, CONFIG, tmp_path)
    losses = noisy_regression(model)

    def recording(step: Step) -> dict[str, Tensor]:
        seen.append(model.weight.detach().clone())
        return losses(step)

    loop.run(recording, resume=False)
    average = seen[0]
    for index, weight in enumerate([*seen[1:], model.weight.detach().clone()]):
        decay = min(0.9, (1 + index) / (10 + index))
        average = decay * average + (1 - decay) * weight
    last = model.weight.detach().clone()
    loop.use_ema()
    torch.testing.assert_close(model.weight.detach(), average)
    loop.use_masters()
    assert torch.equal(model.weight.detach(), last)


def test_learning_rate_warms_up_and_decays() -> None:
    config = LoopConfig(steps=110, learning_rate=1.0, warmup_steps=10, final_learning_rate=0.1)
    assert learning_rate_at(0, config) == pytest.approx(0.1)
    assert learning_rate_at(9, config) == pytest.approx(1.0)
    assert learning_rate_at(60, config) == pytest.approx(0.55)
    assert learning_rate_at(110, config) == pytest.approx(0.1)


def test_one_bad_step_is_skipped_and_logged(tmp_path: Path) -> None:
    model, untouched = make_model(), make_model()

    def losses(step: Step) -> dict[str, Tensor]:
        return {"loss": model.weight.sum() * torch.nan if step.index == 0 else model.weight.sum() * 0.0}

    config = LoopConfig(steps=2, learning_rate=0.1)
    TrainingLoop({"net": model}, config, tmp_path).run(losses, resume=False)
    assert torch.equal(model.weight, untouched.weight)
    assert [row["skipped"] for row in logged(tmp_path)] == [1.0, 0.0]
    assert logged(tmp_path)[0]["loss"] is None


def test_a_run_that_went_bad_stops_with_its_last_good_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    good = noisy_regression(model)

    def losses(step: Step) -> dict[str, Tensor]:
        return good(step) if step.index < 3 else {"loss": model.weight.sum() * torch.nan}

    config = LoopConfig(steps=100, learning_rate=0.1, checkpoint_every=1)
    with pytest.raises(UserError, match=r"not finite.*--resume"):
        TrainingLoop({"net": model}, config, tmp_path).run(losses, resume=False)
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "step-000003"


def test_the_newest_readable_checkpoint_is_taken_and_a_broken_one_replaced(tmp_path: Path) -> None:
    run(tmp_path, stop_after=2)
    newest = tmp_path / "checkpoints" / "step-000003" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    run(tmp_path, resume=True, stop_after=2)
    assert state(tmp_path, 3)
    run(tmp_path / "straight")
    run(tmp_path, resume=True)
    assert logged(tmp_path) == logged(tmp_path / "straight")


def test_a_log_that_was_cut_in_the_middle_of_a_line_is_no_obstacle(tmp_path: Path) -> None:
    """What a killed process leaves."""
    run(tmp_path, stop_after=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run(tmp_path, resume=True)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2, 3, 4]


def test_a_run_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(UserError, match="--resume"):
        run(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, stop_after=1)
    model = nn.Linear(5, 2)
    with pytest.raises(UserError, match=r"net\.weight is \[2, 3\], this model has \[2, 5\]"):
        TrainingLoop({"net": model}, CONFIG, tmp_path).run(noisy_regression(model), resume=True)
    with pytest.raises(UserError, match="another shape"):
        TrainingLoop({"other": model}, CONFIG, tmp_path).run(noisy_regression(model), resume=True)


def test_nothing_to_train_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train"):
        TrainingLoop({"net": make_model().requires_grad_(requires_grad=False)}, CONFIG, tmp_path)


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_follow_the_use_unless_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert set_threads("background") == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert set_threads("background") == 1
        assert set_threads("interactive") == os.cpu_count()
    finally:
        torch.set_num_threads(threads)
