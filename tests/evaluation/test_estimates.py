"""Shares, means and ratios with intervals. Oracles: scipy's Wilson interval and bootstrap, exact small cases."""

import math

import numpy as np
import pytest
from scipy import stats

from vggrpo.evaluation import estimates


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (3, 7), (58, 64), (64, 64), (1, 1)])
def test_a_share_has_wilsons_interval(hits: int, n: int) -> None:
    found = estimates.share([True] * hits + [False] * (n - hits))
    expected = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (found.value, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_mean_has_the_bootstraps_interval() -> None:
    values = np.random.default_rng(4).gamma(2.0, 1.5, size=60)
    found = estimates.mean(values)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.1 * width)
    assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_what_cannot_be_measured_is_left_out_and_counted() -> None:
    found = estimates.mean(np.array([1.0, math.nan, 3.0, math.inf]))
    assert (found.value, found.n, found.left_out) == (2.0, 2, 2)
    ratio = estimates.ratio_of_means(np.array([2.0, 4.0, math.nan]), below=np.array([1.0, 3.0, 100.0]))
    assert (ratio.value, ratio.n, ratio.left_out) == (1.5, 2, 1)


def test_ratios_are_resampled_in_pairs() -> None:
    """Twice the same error on every clip is twice as much, however much clips differ."""
    errors = np.random.default_rng(2).lognormal(sigma=2.0, size=40)
    found = estimates.ratio_of_means(2.0 * errors, below=errors)
    assert (found.low, found.value, found.high) == pytest.approx((2.0, 2.0, 2.0), rel=1e-12)


@pytest.mark.parametrize(
    "found",
    [
        estimates.share([]),
        estimates.mean(np.array([])),
        estimates.mean(np.array([math.nan])),
        estimates.ratio_of_means(np.array([0.0, 0.0]), below=np.array([1.0, math.nan])[[1, 1]]),
        estimates.not_measured("nobody was there"),
    ],
)
def test_nothing_measured_is_never_a_number(found: estimates.Estimate) -> None:
    assert not found.is_measured
    entry = found.to_json()
    assert (entry["value"], entry["low"], entry["high"], entry["n"]) == (None, None, None, 0)
    assert entry["reason"]


def test_one_sample_has_no_interval_and_says_so() -> None:
    found = estimates.mean(np.array([3.0]))
    assert (found.value, found.to_json()["low"], found.interval) == (3.0, None, "none")
    assert "at least 2" in str(found.reason)
