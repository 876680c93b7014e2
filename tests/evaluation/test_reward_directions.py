"""``evaluate gradients``. Oracles: vectors of known angles, finite differences through the sampler, Student's interval
for a mean; then the command on the debug preset."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from vggrpo.cli import main
from vggrpo.evaluation import estimates, reward_directions
from vggrpo.evaluation.reward_directions import Gradients, mean_cosine, measure_reward_directions, reward_gradients
from vggrpo.policy.adapter import LoraSettings, adapter_parameters, add_adapter
from vggrpo.policy.sampling import Conditions, sample_ode
from vggrpo.pretraining.video import VideoArchitecture


def test_the_jackknife_of_a_mean_has_students_interval() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=17)
    without = [float(np.delete(values, index).mean()) for index in range(17)]
    found = estimates.jackknife(float(values.mean()), without=without, n=17, of="clips")
    expected = stats.t.interval(0.95, df=16, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_common_direction_is_found(share: float) -> None:
    """Gradients √c u + √(1 − c) n_i of unit vectors, the n_i orthogonal to u and nearly to each other."""
    rng = torch.Generator().manual_seed(1)
    own = torch.randn(40, 20_000, generator=rng)
    own[:, 0] = 0.0
    gradients = math.sqrt(1.0 - share) * own / own.norm(dim=1, keepdim=True)
    gradients[:, 0] += math.sqrt(share)
    sizes = torch.logspace(-3, 3, 40)

    def gradients_of(index: int) -> Gradients:
        return {"reward": sizes[index] * gradients[index], "other": None}

    done: list[int] = []
    directions = measure_reward_directions(40, gradients_of=gradients_of, on_video=done.append)
    assert done == list(range(1, 41))
    known, unknown = (row.estimate for row in directions.rows())
    assert known.value == pytest.approx(share, abs=0.01)
    assert known.low - 1e-6 <= share <= known.high + 1e-6
    assert not unknown.is_measured
    assert unknown.left_out == 40


def test_the_mean_cosine_leaves_out_what_has_no_gradient() -> None:
    cosines = torch.tensor([[1.0, 0.2, math.nan], [0.2, 1.0, math.nan], [math.nan] * 3])
    found = mean_cosine(cosines)
    assert (found.value, found.n, found.left_out, found.interval) == (pytest.approx(0.2), 2, 1, "none")


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reward that is linear in the latents, through three steps of the sampler."""
    transformer = VideoArchitecture(num_layers=1, num_attention_heads=2, attention_head_dim=12).build_transformer()
    add_adapter(transformer, LoraSettings(rank=2, alpha=2.0), seed=0)
    weights = list(adapter_parameters(transformer).values())
    for weight in weights:
        weight.data.normal_(std=0.1)
    shape = (1, 16, 2, 4, 4)
    noise, pull = torch.randn(shape), torch.randn(shape)
    conditions = Conditions(text=torch.randn(1, 4, 128), negative=torch.zeros(1, 4, 128))

    def reward(tensor: Tensor) -> Tensor:
        return (tensor * pull).sum() / 100.0

    def fake(tensor: Tensor) -> SimpleNamespace:
        terms = {"linear": reward(tensor).view(1), "constant": torch.ones(1), "unjudged": torch.full((1,), math.nan)}
        return SimpleNamespace(terms={name: SimpleNamespace(value=value) for name, value in terms.items()})

    monkeypatch.setattr(reward_directions, "judge", fake)
    geometry: object = lambda latents: latents.tensor  # noqa: E731
    found = reward_gradients(transformer, geometry, noise=noise, conditions=conditions, steps=3, shift=3.0)  # type: ignore[arg-type]
    assert found["constant"] is None
    assert found["unjudged"] is None
    gradient = found["linear"]
    assert gradient is not None
    direction = gradient / gradient.norm()

    def moved(size: float) -> float:
        start = 0
        for weight in weights:
            weight.data += size * direction[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        with torch.no_grad():
            value = float(reward(sample_ode(transformer, noise, conditions, steps=3, shift=3.0).tensor))
        start = 0
        for weight in weights:
            weight.data -= size * direction[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        return value

    slope = (moved(1e-2) - moved(-1e-2)) / 2e-2
    assert slope == pytest.approx(float(gradient.norm()), rel=0.03)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "gradients", "--preset", "tiny-debug", "--count", "3"]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "gradients.json").read_text()) == printed
    row = printed["rows"]["gradients/motion_smoothness"]
    assert row["value"] is None or -1.0 <= row["value"] <= 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "1"], "give 2 to"),
        (["--adapter", "nowhere"], "does not exist"),
        (["--preset", "wan2.1-t2v-1.3b"], "too large"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    preset = [] if "--preset" in words else ["--preset", "tiny-debug"]
    assert main(["evaluate", "gradients", *preset, *words]) == 2
    assert said in capsys.readouterr().err
