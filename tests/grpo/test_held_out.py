"""Held-out numbers by hand, and the base's numbers through their file."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.grpo.toy import CONFIG, Brightness, make_models
from vggrpo.grpo.config import RewardWeights
from vggrpo.grpo.held_out import EarlyStop, HeldOut
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.policy.adapter import add_adapter
from vggrpo.rewards import reward_names

NAN = float("nan")


def held_out(out: Path, **changed: object) -> HeldOut:
    models = make_models()
    add_adapter(models.transformer, CONFIG.lora_settings, seed=0)
    return HeldOut(
        config=replace(CONFIG, **changed),
        models=models,
        processes=Processes.open(device=torch.device("cpu"), out=out),
        prompts=("four", "five", "six"),
        out=out,
    )


def test_metrics_by_hand(tmp_path: Path) -> None:
    """Base 0, 2, 4 has spread √(8/3); a gain of 1 on two measured videos, weight 1; the second reward is NaN once."""
    base = dict.fromkeys((*reward_names(), *GUARDS), torch.zeros(3)) | {
        "motion_smoothness": torch.tensor([0.0, 2.0, 4.0])
    }
    tuned = base | {"motion_smoothness": torch.tensor([1.0, 3.0, NAN]), "scene_smoothness": torch.full((3,), 0.5)}
    weights = RewardWeights(motion_smoothness=1.0, geometry_consistency=0.0, scene_smoothness=3.0)
    found = held_out(tmp_path, weights=weights).metrics(tuned, base)
    assert found["eval/motion_smoothness/mean"] == 2.0
    assert found["eval/motion_smoothness/base"] == 2.0
    assert found["eval/motion_smoothness/gain"] == 1.0
    assert found["eval/nan_frac"] == pytest.approx(1 / 3)
    # A base without spread: the gain counts in its own units.
    assert found["eval/score"] == pytest.approx((1.0 / math.sqrt(8 / 3) + 3 * 0.5) / 4)


def test_the_bases_numbers_are_measured_once(tmp_path: Path) -> None:
    measured = held_out(tmp_path)
    first = measured.base_table()
    rewards = measured.models.rewards
    assert isinstance(rewards, Brightness)
    assert rewards.judged == [3]
    again = measured.base_table()
    assert rewards.judged == [3]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_refreshed_judge_judges_the_base_anew(tmp_path: Path) -> None:
    measured = held_out(tmp_path, refresh_lgm=1)
    measured.base_table()
    assert not (tmp_path / "base.json").exists()


def test_what_could_not_be_measured_survives_the_file(tmp_path: Path) -> None:
    measured = held_out(tmp_path)
    rewards = measured.models.rewards
    assert isinstance(rewards, Brightness)
    rewards.before = lambda latents: latents.tensor[1].fill_(torch.nan)
    first, again = measured.base_table(), measured.base_table()
    assert first["motion_smoothness"].isfinite().tolist() == [True, False, True]
    torch.testing.assert_close(first["motion_smoothness"], again["motion_smoothness"], rtol=0, atol=0, equal_nan=True)


def test_early_stop_waits_for_a_new_best() -> None:
    state = EarlyStop()
    for value, best, waited in [(1.0, 1.0, 0), (1.0, 1.0, 1), (NAN, 1.0, 2), (2.0, 2.0, 0), (1.5, 2.0, 1)]:
        state = state.after(value)
        assert (state.best, state.waited) == (best, waited)
