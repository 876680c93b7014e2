"""What every objective shares: the budget of videos, resuming to the bit, processes, and what cannot be asked."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.grpo.test_trainer import assert_same_run, logged, state
from tests.grpo.together import start
from tests.grpo.toy import CONFIG, PROMPTS, Brightness, ToyClips, brightness_ranking, make_models, run
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.preference import Ranking
from vggrpo.grpo.trainer import train
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

RECIPES = {
    "sft": replace(CONFIG, objective="sft", noise_draws=2, updates=2, micro_batch=2),
    "dpo": replace(CONFIG, objective="dpo", pairs=2, noise_draws=2, micro_batch=2, updates=2, evaluate_every=2),
    "grpo": CONFIG,
}


def models_for_all() -> GrpoModels:
    return replace(make_models(), rank=brightness_ranking, clips=ToyClips())


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_two_iterations_and_two_more_are_four(tmp_path: Path, name: str) -> None:
    config = RECIPES[name]
    run(tmp_path / "straight", config, models=models_for_all())
    run(tmp_path / "parts", replace(config, iterations=2), models=models_for_all())
    result = run(tmp_path / "parts", config, models=models_for_all(), resume=True)
    assert (result.iterations_done, result.finished) == (4, True)
    assert_same_run(tmp_path / "straight", tmp_path / "parts", iteration=4)
    rows = logged(tmp_path / "straight")
    assert all(row["update/applied"] == 2.0 and row["grad_norm"] > 0 for row in rows if row["iteration"])


def test_every_objective_takes_as_many_videos_an_iteration(tmp_path: Path) -> None:
    """Judged by the rewards, ranked in pairs, or imitated: groups × group size of them."""
    ranked: list[int] = []

    def rank(latents: Latents) -> Ranking:
        ranked.append(len(latents.tensor))
        return brightness_ranking(latents)

    rewards, clips = Brightness(), ToyClips()
    models = replace(make_models(rewards), rank=rank, clips=clips)
    for name, config in RECIPES.items():
        run(tmp_path / name, replace(config, iterations=2, evaluate_every=0), models=models)
    budget = CONFIG.groups * CONFIG.group_size
    assert rewards.judged == ranked == [budget] * 2
    # Once when they are encoded, once when they are learnt from.
    assert len(clips.asked) == 2 * 2 * budget


def work(rank: int, config: GrpoConfig, out: Path) -> None:
    try:
        train(config, models_for_all(), prompts=PROMPTS, out=out)
    except UserError as error:
        sys.stderr.write(f"error {rank}: {error}\n")
        sys.exit(2)


@pytest.mark.parametrize(("name", "changes"), [("sft", {}), ("dpo", {"shard_base": True, "updates": 3})])
def test_two_processes_are_one_training(tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    """With the base shared out, processes must also run it equally often."""
    config = replace(RECIPES[name], iterations=1, evaluate_every=0, **changes)
    run(tmp_path / "alone", config, models=models_for_all())
    together = start(work, config, tmp_path / "both", count=2, folder=tmp_path / "logs")
    assert together.wait() == (0, 0), together.said(0)[-2000:]
    left, right = state(tmp_path / "alone", 1), state(tmp_path / "both", 1)
    for key, values in left.items():
        torch.testing.assert_close(right[key], values, rtol=1e-3, atol=1e-5)
    for one, other in zip(logged(tmp_path / "alone"), logged(tmp_path / "both"), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"objective": "sft", "prompts": Path("a.txt")}, "own captions: leave out --prompts"),
        ({"objective": "sft", "first_frame": Path("a.png")}, "whole clips .* leave out --first-frame"),
        ({"sft_clips": Path("clips")}, "--sft-clips belongs to --objective sft, not grpo"),
        ({"objective": "dpo", "sft_clips": Path("clips")}, "--sft-clips belongs to --objective sft, not dpo"),
        ({"objective": "dpo", "pairs": 3}, "A group of 4 videos holds no 3 pairs"),
        ({"objective": "dpo", "refresh_lgm": 2}, "--refresh-lgm .* --objective dpo does not learn from them"),
        ({"objective": "sft", "refresh_lgm": 2}, "--refresh-lgm .* --objective sft"),
        ({"pairs": 0}, "--pairs is 0; give at least 1"),
        ({"noise_draws": 0}, "--noise-draws is 0; give at least 1"),
        ({"dpo_beta": 0.0}, "--dpo-beta is 0.0; give a positive number"),
        ({"dpo_beta": float("nan")}, "--dpo-beta is nan"),
        ({"pair_motion_floor": 1.5}, r"--pair-motion-floor is 1.5; give 0 \(off\) to 1"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(CONFIG, **changed)


def test_a_preference_for_rewards_may_refresh_its_judge() -> None:
    assert replace(CONFIG, objective="dpo", preference="reward", refresh_lgm=2).learns_from_rewards
    assert [replace(CONFIG, objective="dpo", micro_batch=size).pairs_at_once for size in (1, 2, 3, 8)] == [1, 1, 1, 4]
