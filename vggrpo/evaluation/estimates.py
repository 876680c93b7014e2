"""Measured numbers with their interval: shares after Wilson, means and ratios by bootstrap over clips.

What could not be measured is left out and counted; with nothing left the value is NaN and ``reason`` says why.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_FOR_INTERVAL = 2
"""Below this a bootstrap has one sample to draw from, and no spread."""

Kind = Literal["wilson", "bootstrap", "jackknife", "none"]
Statistic = Callable[[Float[np.ndarray, "*resamples n k"]], Float[np.ndarray, "*resamples"]]
"""A number of n rows, for many resamples of them at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number over ``n`` samples with its 95 % interval [``low``, ``high``], NaN where there is none.

    ``left_out`` samples could not be measured. ``of`` says what a sample is.
    """

    value: float
    low: float
    high: float
    n: int
    left_out: int = 0
    of: str = "clips"
    interval: Kind = "none"
    reason: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether there is a number at all."""
        return math.isfinite(self.value)

    def to_json(self) -> dict[str, object]:
        """For a file: six significant digits, null for what was not measured."""
        numbers = {name: _rounded(getattr(self, name)) for name in ("value", "low", "high")}
        entry: dict[str, object] = {**numbers, "n": self.n, "of": self.of, "interval": self.interval}
        if self.left_out:
            entry["left_out"] = self.left_out
        return entry if self.reason is None else entry | {"reason": self.reason}


def share(hits: Sequence[bool] | Sequence[float], *, of: str = "clips") -> Estimate:
    """The share of hits (or of fractions of one, 0.5 for a tie) with Wilson's score interval.

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)

    Unlike p ± z·se it stays inside [0, 1] and is honest at 0 and 1 (Wilson 1927).
    """
    n = len(hits)
    if not n:
        return not_measured(f"no {of} to count", of=of)
    z = 1.959963984540054
    p = sum(hits) / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At p = 0 and 1 one end is p itself, up to rounding.
    low, high = max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))
    return Estimate(value=p, low=low, high=high, n=n, of=of, interval="wilson")


def mean(values: Float[np.ndarray, " n"], *, of: str = "clips") -> Estimate:
    """The mean of the finite values with its bootstrap interval."""
    return bootstrap(np.asarray(values, dtype=np.float64)[:, None], statistic=_first_mean, of=of)


def ratio_of_means(above: Float[np.ndarray, " n"], *, below: Float[np.ndarray, " n"], of: str = "clips") -> Estimate:
    """mean(above) / mean(below) over the clips that both could be measured on; resampled in pairs."""
    pairs = np.stack([np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)], axis=1)
    return bootstrap(pairs, statistic=_ratio, of=of)


def bootstrap(
    rows: Float[np.ndarray, "n k"], *, statistic: Statistic, of: str = "clips", random_seed: int = 0
) -> Estimate:
    """``statistic`` of the rows that are finite throughout, with the percentile interval of ``RESAMPLES`` resamples."""
    usable = rows[np.isfinite(rows).all(axis=1)]
    n, left_out = len(usable), len(rows) - len(usable)
    if not n:
        return not_measured(f"none of {len(rows)} {of} could be measured", of=of, left_out=left_out)
    value = float(statistic(usable))
    if not math.isfinite(value):
        return not_measured(f"it is not defined over these {n} {of}", of=of, left_out=left_out)
    if n < FEWEST_FOR_INTERVAL:
        reason = f"an interval needs at least {FEWEST_FOR_INTERVAL} {of}"
        return Estimate(value=value, low=math.nan, high=math.nan, n=n, left_out=left_out, of=of, reason=reason)
    draws = np.random.default_rng(random_seed).integers(n, size=(RESAMPLES, n))
    resampled = statistic(usable[draws])
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=n, left_out=left_out, of=of, interval="bootstrap")


def jackknife(value: float, *, without: Sequence[float], n: int, of: str, left_out: int = 0) -> Estimate:
    """A number with the interval of Tukey's jackknife, value ± t s, from its values ``without`` each of n samples.

        s² = (n − 1)/n · Σ (v_i − v̄)²

    For means over pairs, where resampling would compare a sample with itself. Fewer than three samples give none.
    """
    if len(without) < 3:
        reason = f"an interval needs at least 3 {of}"
        return Estimate(value=value, low=math.nan, high=math.nan, n=n, left_out=left_out, of=of, reason=reason)
    from scipy.stats import t as student_t

    spread = np.asarray(without) - np.mean(without)
    error = math.sqrt((n - 1) / n * float(spread @ spread))
    half = float(student_t.ppf(0.5 + LEVEL / 2, df=n - 1)) * error
    return Estimate(
        value=value, low=value - half, high=value + half, n=n, left_out=left_out, of=of, interval="jackknife"
    )


def single(value: float, *, n: int, of: str) -> Estimate:
    """A number that is exact, or for which no honest interval is at hand."""
    return Estimate(value=value, low=math.nan, high=math.nan, n=n, of=of)


def not_measured(reason: str, *, of: str = "clips", left_out: int = 0) -> Estimate:
    """No number, and why."""
    return Estimate(value=math.nan, low=math.nan, high=math.nan, n=0, left_out=left_out, of=of, reason=reason)


def _first_mean(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows[..., 0].mean(axis=-1))


def _ratio(rows: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    above, below = rows.mean(axis=-2)[..., 0], rows.mean(axis=-2)[..., 1]
    return np.asarray(above / np.where(below == 0, np.nan, below))


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
