"""Paired differences. Oracles: scipy's paired t test, the bootstrap, coverage on normal data, exact small cases."""

import math

import numpy as np
import pytest
from scipy import stats

from vggrpo.evaluation import paired_difference, paired_differences


def draw_pairs(n: int, *, seed: int, gain: float = 0.3, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that share most of their variance, as two videos of one prompt and seed do."""
    rng = np.random.default_rng(seed)
    scene = rng.normal(scale=5.0, size=n)
    return scene + rng.normal(scale=spread / 2, size=n), scene + gain + rng.normal(scale=spread / 2, size=n)


@pytest.mark.parametrize("n", [2, 3, 16, 200])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_is_that_of_scipys_paired_t_test(n: int, level: float) -> None:
    base, tuned = draw_pairs(n, seed=n)
    found = paired_difference(base, tuned, level=level)
    interval = stats.ttest_rel(tuned, base).confidence_interval(level)
    assert found.mean == pytest.approx(np.mean(tuned - base), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (found.n, found.left_out, found.reason) == (n, 0, None)


def test_the_bootstrap_agrees() -> None:
    """Second route without Student's t: resampled means of skewed differences."""
    rng = np.random.default_rng(5)
    base = rng.normal(size=150)
    tuned = base + rng.gamma(2.0, 0.2, size=150)
    found = paired_difference(base, tuned)
    resampled = stats.bootstrap((tuned - base,), np.mean, confidence_level=0.95, n_resamples=4000, rng=7)
    ends = resampled.confidence_interval
    width = found.high - found.low
    assert found.low == pytest.approx(ends.low, abs=0.1 * width)
    assert found.high == pytest.approx(ends.high, abs=0.1 * width)


@pytest.mark.parametrize("n", [5, 20])
def test_95_of_100_intervals_hold_the_truth(n: int) -> None:
    """2000 data sets: the share that holds the true gain is binomial, five standard errors wide at most off."""
    truth, sets = 0.3, 2000
    held = 0
    for seed in range(sets):
        found = paired_difference(*draw_pairs(n, seed=seed, gain=truth))
        held += found.low <= truth <= found.high
    assert held / sets == pytest.approx(0.95, abs=5 * math.sqrt(0.95 * 0.05 / sets))


def test_pairing_takes_the_scene_out() -> None:
    """Scenes vary ten times as much as the gain: unpaired nothing shows, paired it does."""
    base, tuned = draw_pairs(40, seed=1, gain=0.5)
    assert stats.ttest_ind(tuned, base).pvalue > 0.3
    assert paired_difference(base, tuned).is_above_zero


def test_swapping_the_sides_mirrors_the_interval() -> None:
    base, tuned = draw_pairs(12, seed=3)
    there, back = paired_difference(base, tuned), paired_difference(tuned, base)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low), rel=1e-12)
    assert there.is_above_zero == back.is_below_zero


def test_pairs_that_were_not_judged_on_both_sides_are_left_out_and_counted() -> None:
    base, tuned = draw_pairs(10, seed=4)
    complete = paired_difference(base[3:], tuned[3:])
    base[0], tuned[1], base[2], tuned[2] = np.nan, np.nan, np.nan, np.nan
    holed = paired_difference(base, tuned)
    assert (holed.n, holed.left_out) == (7, 3)
    assert (holed.mean, holed.low, holed.high) == (complete.mean, complete.low, complete.high)


@pytest.mark.parametrize(("values", "n"), [([], 0), ([math.nan, math.nan], 0), ([1.0], 1), ([1.0, math.nan], 1)])
def test_too_few_pairs_have_no_interval_and_say_so(values: list[float], n: int) -> None:
    tuned = np.array(values, dtype=np.float64)
    found = paired_difference(np.zeros_like(tuned), tuned)
    assert found.n == n
    assert found.reason is not None
    assert f"{n} of {len(values)}" in found.reason
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.mean) == (n == 0)
    assert not found.is_above_zero
    assert not found.is_below_zero


def test_equal_sides_differ_by_exactly_nothing() -> None:
    values = np.linspace(-1.0, 1.0, 9)
    found = paired_difference(values, values)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_difference(np.zeros(3), np.zeros(3), level=95.0)
    with pytest.raises(ValueError, match="different rewards"):
        paired_differences({"a": np.zeros(3)}, {"b": np.zeros(3)})
    assert set(paired_differences({"a": np.zeros(3)}, {"a": np.ones(3)})) == {"a"}
