"""Advantages against numbers by hand, against plain numpy loops, and against what must not change them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vggrpo.grpo.advantage import AdvantageSettings, group_advantages, rows_by_group
from vggrpo.runtime.errors import UserError

PAPER = AdvantageSettings(epsilon=0.0)
GDPO = AdvantageSettings(mode="gdpo", epsilon=0.0)
BOTH = {"motion": 1.0, "geometry": 1.0}
EVERY = [
    AdvantageSettings(),
    AdvantageSettings(mode="gdpo"),
    AdvantageSettings(mode="scalar"),
    AdvantageSettings(mode="scalar", std="global"),
    AdvantageSettings(mode="scalar", std="none"),
]
NAMES = ["paper", "gdpo", "group", "global", "none"]


def table(**rows: list[list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in rows.items()}


def draw(*, groups: int = 3, size: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "motion": torch.randn(groups, size, generator=generator) * 0.1 + 0.8,
        "geometry": torch.randn(groups, size, generator=generator) * 20.0 - 300.0,
    }


# --- By hand ---------------------------------------------------------------------------------------------------------


def test_one_reward_by_hand() -> None:
    """1, 2, 3 have mean 2 and (ddof 0) standard deviation √(2/3)."""
    found = group_advantages(table(motion=[[1.0, 2.0, 3.0]]), weights={"motion": 1.0}, settings=PAPER)
    root = math.sqrt(1.5)
    assert found.values.dtype == torch.float64
    torch.testing.assert_close(found.values, torch.tensor([[-root, 0.0, root]], dtype=torch.float64))


def test_the_paper_averages_standardised_rewards() -> None:
    """A = ½ (z_motion + z_geometry), here with z = (−1, 1) and (1, −1) or (−1, 1); scales do not matter."""
    rewards = table(motion=[[0.5, 0.7], [0.5, 0.7]], geometry=[[-100.0, -300.0], [0.0, 1.0]])
    found = group_advantages(rewards, weights=BOTH, settings=PAPER)
    torch.testing.assert_close(found.values, torch.tensor([[0.0, 0.0], [-1.0, 1.0]], dtype=torch.float64))
    weighted = group_advantages(rewards, weights={"motion": 3.0, "geometry": 1.0}, settings=PAPER)
    torch.testing.assert_close(weighted.values, torch.tensor([[-0.5, 0.5], [-1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(weighted.standardised["motion"][0], torch.tensor([-1.0, 1.0], dtype=torch.float64))


def test_gdpo_standardises_the_sum_over_the_batch() -> None:
    """z sums (weights 1 and 2) are (−3, 3) and (−1, 1): mean 0, standard deviation √5 over the batch."""
    rewards = table(motion=[[0.0, 1.0], [1.0, 0.0]], geometry=[[0.0, 1.0], [0.0, 1.0]])
    found = group_advantages(rewards, weights={"motion": 1.0, "geometry": 2.0}, settings=GDPO)
    expected = torch.tensor([[-3.0, 3.0], [-1.0, 1.0]], dtype=torch.float64) / math.sqrt(5)
    torch.testing.assert_close(found.values, expected)


def test_scalar_rewards_by_hand() -> None:
    """R = motion + 2 geometry = (0, 2) and (0, 6): group means 1 and 3, deviations 1 and 3, √6 over the batch."""
    rewards = table(motion=[[0.0, 0.0], [0.0, 2.0]], geometry=[[0.0, 1.0], [0.0, 2.0]])
    weights = {"motion": 1.0, "geometry": 2.0}
    centred = torch.tensor([[-1.0, 1.0], [-3.0, 3.0]], dtype=torch.float64)
    for std, divisor in {"group": torch.tensor([[1.0], [3.0]]), "global": math.sqrt(6.0), "none": 1.0}.items():
        how = AdvantageSettings(mode="scalar", std=std, epsilon=0.0)
        torch.testing.assert_close(group_advantages(rewards, weights=weights, settings=how).values, centred / divisor)


# --- A second route, in numpy and with loops -------------------------------------------------------------------------


def by_loops(rewards: dict[str, np.ndarray], weights: dict[str, float], how: AdvantageSettings) -> np.ndarray:
    """The module's formulas one sample at a time; no NaN, no constant group."""
    groups, size = next(iter(rewards.values())).shape
    out = np.zeros((groups, size))
    for g in range(groups):
        for i in range(size):
            if how.mode == "scalar":
                total = sum(weights[name] * rewards[name] for name in weights)
                std = {"group": np.std(total[g]), "global": np.std(total)}.get(how.std)
                out[g, i] = (total[g, i] - total[g].mean()) / (1.0 if std is None else std + how.epsilon)
            else:
                for name, weight in weights.items():
                    row = rewards[name][g]
                    out[g, i] += weight * (row[i] - row.mean()) / (np.std(row) + how.epsilon)
    if how.mode == "paper":
        return out / sum(weights.values())
    return (out - out.mean()) / (np.std(out) + how.epsilon) if how.mode == "gdpo" else out


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
def test_all_ways_agree_with_loops(how: AdvantageSettings) -> None:
    rewards, weights = draw(), {"motion": 0.7, "geometry": 0.2}
    expected = by_loops({name: value.double().numpy() for name, value in rewards.items()}, weights, how)
    found = group_advantages(rewards, weights=weights, settings=how)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert (found.nan_count, found.zero_std_groups) == (0, 0)
    assert found.kept.all()


@pytest.mark.parametrize(("scale", "shift"), [(0.1, 0.0), (50.0, -100.0), (1.0, 1e3)])
def test_neither_shift_nor_scale_of_a_reward_matters_to_the_paper(scale: float, shift: float) -> None:
    rewards = draw()
    moved = {**rewards, "motion": rewards["motion"].double() * scale + shift}
    one, other = (group_advantages(r, weights=BOTH, settings=PAPER).values for r in (rewards, moved))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
def test_the_order_of_samples_and_groups_does_not_matter(how: AdvantageSettings) -> None:
    rewards = draw()
    values = group_advantages(rewards, weights=BOTH, settings=how).values
    samples, groups = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    shuffled = {name: reward[groups][:, samples] for name, reward in rewards.items()}
    torch.testing.assert_close(
        group_advantages(shuffled, weights=BOTH, settings=how).values, values[groups][:, samples]
    )


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
def test_every_group_has_mean_zero(how: AdvantageSettings) -> None:
    """Nothing is learnt about how easy a prompt is."""
    values = group_advantages(draw(), weights=BOTH, settings=how).values
    torch.testing.assert_close(values.mean(1), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert values.abs().mean() > 0.05


# --- Groups without signal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
@pytest.mark.parametrize("value", [0.1, 0.0, 1e6, -333.3])
def test_a_constant_group_gives_exactly_zero(how: AdvantageSettings, value: float) -> None:
    """0.1 seven times has a mean that is not 0.1 in floating point: dividing that by ε would not be zero."""
    rewards = draw(size=7)
    for reward in rewards.values():
        reward[1] = value
    found = group_advantages(rewards, weights=BOTH, settings=how)
    assert torch.equal(found.values[1], torch.zeros(7, dtype=torch.float64))
    assert found.kept.tolist() == [True, False, True]
    assert found.zero_std_groups == 1
    assert found.values[[0, 2]].abs().min() > 1e-6


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
def test_rounding_is_no_signal(how: AdvantageSettings) -> None:
    rewards = {"motion": 0.9 + 6e-8 * torch.arange(4.0)[None].repeat(2, 1)}
    found = group_advantages(rewards, weights={"motion": 1.0}, settings=how)
    assert not found.values.any()
    assert found.zero_std_groups == 2


def test_gdpo_does_not_count_dropped_groups_into_its_spread() -> None:
    rewards = draw()
    alone = group_advantages(rewards, weights=BOTH, settings=AdvantageSettings(mode="gdpo")).values
    with_constant = {name: torch.cat([reward, torch.full((1, 5), 0.5)]) for name, reward in rewards.items()}
    found = group_advantages(with_constant, weights=BOTH, settings=AdvantageSettings(mode="gdpo"))
    torch.testing.assert_close(found.values[:3], alone)
    assert not found.values[3].any()


def test_a_reward_without_spread_leaves_the_others_to_decide() -> None:
    rewards = table(motion=[[0.5, 0.5]], geometry=[[0.0, 1.0]])
    found = group_advantages(rewards, weights=BOTH, settings=PAPER)
    torch.testing.assert_close(found.values, torch.tensor([[-0.5, 0.5]], dtype=torch.float64))
    assert found.kept.all()


# --- Samples that cannot be measured ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_an_unmeasurable_sample_is_as_if_it_were_not_there(how: AdvantageSettings, hole: float) -> None:
    rewards = draw()
    without = {name: reward[:, [0, 1, 3, 4]] for name, reward in rewards.items()}
    expected = group_advantages(without, weights=BOTH, settings=how).values
    rewards["geometry"][:, 2] = hole
    found = group_advantages(rewards, weights=BOTH, settings=how)
    torch.testing.assert_close(found.values[:, [0, 1, 3, 4]], expected)
    assert torch.equal(found.values[:, 2], torch.zeros(3, dtype=torch.float64))
    assert not any(z[:, 2].any() for z in found.standardised.values())
    assert found.nan_count == 3
    assert found.measured.sum(1).tolist() == [4, 4, 4]


def test_a_hole_in_a_reward_without_weight_is_not_looked_at() -> None:
    rewards = draw()
    expected = group_advantages(rewards, weights={"motion": 1.0}, settings=PAPER).values
    rewards["geometry"][0] = math.nan
    for weights in ({"motion": 1.0}, {"motion": 1.0, "geometry": 0.0}):
        found = group_advantages(rewards, weights=weights, settings=PAPER)
        assert torch.equal(found.values, expected)
        assert found.nan_count == 0


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
@pytest.mark.parametrize("left", [0, 1])
def test_a_group_with_too_few_measured_samples_is_dropped(how: AdvantageSettings, left: int) -> None:
    rewards = draw()
    rewards["motion"][0, left:] = math.nan
    found = group_advantages(rewards, weights=BOTH, settings=how)
    assert found.values.isfinite().all()
    assert not found.values[0].any()
    assert found.kept.tolist() == [False, True, True]
    assert found.nan_count == 5 - left


@pytest.mark.parametrize("how", EVERY, ids=NAMES)
def test_nothing_measured_is_nothing_learnt(how: AdvantageSettings) -> None:
    rewards = {name: torch.full((2, 3), math.nan) for name in BOTH}
    found = group_advantages(rewards, weights=BOTH, settings=how)
    assert torch.equal(found.values, torch.zeros(2, 3, dtype=torch.float64))
    assert (found.nan_count, found.zero_std_groups) == (6, 2)


# --- Groups gathered from several processes --------------------------------------------------------------------------


def test_samples_find_their_group_by_its_integer_id() -> None:
    groups = torch.tensor([7, 2, 7, 11, 2, 11])
    rewards = torch.tensor([70.0, 20.0, 71.0, 110.0, 21.0, 111.0])
    assert rewards[rows_by_group(groups)].tolist() == [[20.0, 21.0], [70.0, 71.0], [110.0, 111.0]]


def test_an_incomplete_group_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"\{0: 2, 1: 1\}"):
        rows_by_group(torch.tensor([0, 1, 0]))


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "size", "message"),
    [
        ({"motion": 1.0}, 1, "group size of 2"),
        ({"motions": 1.0}, 3, "did you mean 'motion'"),
        ({"motion": -1.0}, 3, "0 or more"),
        ({"motion": math.nan}, 3, "0 or more"),
        ({"motion": 0.0}, 3, "positive weight"),
        ({}, 3, "positive weight"),
    ],
)
def test_senseless_groups_and_weights_are_the_users_mistake(weights: dict[str, float], size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        group_advantages(draw(size=size), weights=weights, settings=PAPER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"std": "global"}, {"mode": "gdpo", "std": "none"}, {"epsilon": -1.0}],
)
def test_settings_without_effect_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        AdvantageSettings(**changes)
