"""The hinge by hand, and what it must not touch."""

from dataclasses import replace

import pytest
import torch

from tests.grpo.toy import CONFIG
from vggrpo.grpo.judgement import judge_groups
from vggrpo.grpo.motion_guard import guarded_advantages, mean_of_measured, motion_hinge
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.rewards import reward_names

NAN = float("nan")


def test_the_hinge_by_hand() -> None:
    """Floor 0.9 of a base path of 2 is 1.8: 1.8 and more is free, 0.9 is half, standing still is all."""
    path = torch.tensor([[2.0, 1.8, 0.9, 0.0, NAN]])
    hinge = motion_hinge(path, base=torch.tensor([2.0]), floor=0.9)
    torch.testing.assert_close(hinge, torch.tensor([[0.0, 0.0, 0.5, 1.0, 0.0]]))


@pytest.mark.parametrize("base", [0.0, 0.04, NAN])
def test_a_prompt_that_stands_has_nothing_to_freeze(base: float) -> None:
    assert not motion_hinge(torch.zeros(1, 3), base=torch.tensor([base]), floor=0.9).any()


def test_the_penalty_is_centred_over_the_measured_members() -> None:
    advantages = torch.tensor([[1.0, 0.0, -1.0, 0.0]])
    hinge = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    measured = torch.tensor([[True, True, True, False]])
    found = guarded_advantages(advantages, hinge=hinge, measured=measured, strength=2.0)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, -1.0, 0.0]]))
    assert float(found.sum()) == pytest.approx(float(advantages.sum()), abs=1e-6)


def test_a_group_that_moves_enough_is_left_as_it_is() -> None:
    advantages = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    everybody = torch.ones(2, 4, dtype=torch.bool)
    assert torch.equal(
        guarded_advantages(advantages, hinge=torch.zeros(2, 4), measured=everybody, strength=5.0), advantages
    )


def test_the_mean_leaves_out_what_was_not_measured() -> None:
    assert mean_of_measured(torch.tensor([[1.0, NAN, 3.0]])).tolist() == [2.0]


def test_a_frozen_video_with_the_best_reward_is_not_the_best() -> None:
    """Member 0 is smoothest because its camera stands. Without the guard it wins, with it the best mover does."""
    scores = dict.fromkeys((*reward_names(), *GUARDS), torch.ones(1, 4))
    scores |= {"motion_smoothness": torch.tensor([[1.0, 0.8, 0.7, 0.6]])}
    scores |= {"camera_path_length": torch.tensor([[0.01, 2.0, 2.0, 2.0]])}
    config = replace(CONFIG, motion_guard=3.0)
    free = judge_groups(scores, base_path=None, config=config)
    guarded = judge_groups(scores, base_path=torch.full((1, 2), 2.0), config=config)
    assert int(free.advantages.argmax()) == 0
    assert int(guarded.advantages.argmax()) == 1
    assert float(guarded.advantages[0, 0]) < 0
    assert guarded.metrics["guard/base_camera_path_length"] == 2.0
    assert bool(guarded.usable.all())


def test_only_the_guard_can_tell_members_apart() -> None:
    """Equal rewards: without a hinge the group is dropped, with one it is trained on."""
    scores = dict.fromkeys((*reward_names(), *GUARDS), torch.ones(1, 2))
    scores |= {"camera_path_length": torch.tensor([[0.1, 2.0]])}
    free = judge_groups(scores, base_path=None, config=CONFIG)
    assert (bool(free.usable.any()), free.metrics["group/zero_std_ratio"]) == (False, 1.0)
    guarded = judge_groups(
        scores, base_path=torch.full((1, 1), 2.0), config=replace(CONFIG, motion_guard=1.0, motion_floor=1.0)
    )
    torch.testing.assert_close(guarded.advantages.float(), torch.tensor([[-0.475, 0.475]]))
    assert guarded.metrics["group/zero_std_ratio"] == 0.0
