"""Paired differences with an interval: the same prompts and seeds with and without an adapter.

For n pairs (a_i, b_i) of one reward, d_i = b_i − a_i. The mean of d has the two-sided interval

    mean(d) ± t_{n−1, (1+level)/2} · s_d / √n,      s_d² = Σ (d_i − mean(d))² / (n − 1)

(Student's t: exact for normal differences, and close for others from n of about 20 on). Pairing takes the prompt and
the seed out of the comparison; what is left in d is the adapter's own doing. A pair with a NaN on either side says
nothing about the difference: it is left out, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FEWEST_PAIRS = 2
"""Below this a spread, and so an interval, does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Mean of ``tuned − base`` over ``n`` pairs with its interval [``low``, ``high``].

    ``left_out`` pairs could not be judged on both sides. Where there are too few pairs, ``reason`` says so, and the
    ends (with no pair at all also the mean) are NaN.
    """

    mean: float
    low: float
    high: float
    n: int
    left_out: int
    level: float
    reason: str | None = None

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is above zero; False where there is none."""
        return self.low > 0.0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is below zero; False where there is none."""
        return self.high < 0.0


def paired_difference(
    base: Float[np.ndarray, " n"], tuned: Float[np.ndarray, " m"], *, level: float = 0.95
) -> PairedDifference:
    """``tuned − base`` of one reward over pairs in the same order; see the module's docstring.

    Raises a ValueError for sequences of different lengths, or a level outside (0, 1).
    """
    if base.shape != tuned.shape:
        raise ValueError(f"{base.shape[0]} base values and {tuned.shape[0]} tuned ones are no pairs")
    if not 0.0 < level < 1.0:
        raise ValueError(f"an interval's level lies between 0 and 1, not at {level}")
    difference = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    judged = difference[np.isfinite(difference)]
    n = int(judged.size)
    mean = float(judged.mean()) if n else float("nan")
    half, reason = float("nan"), None
    if n < FEWEST_PAIRS:
        reason = f"{n} of {difference.size} pairs could be judged; an interval needs at least {FEWEST_PAIRS}"
    else:
        half = _half_width(judged, level=level)
    return PairedDifference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        n=n,
        left_out=int(difference.size) - n,
        level=level,
        reason=reason,
    )


def paired_differences(
    base: Mapping[str, Float[np.ndarray, " n"]],
    tuned: Mapping[str, Float[np.ndarray, " m"]],
    *,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """``paired_difference`` of every reward, by name. Raises a ValueError where the sides name different rewards."""
    if base.keys() != tuned.keys():
        raise ValueError(f"the sides were judged by different rewards: {sorted(base)} and {sorted(tuned)}")
    return {name: paired_difference(base[name], tuned[name], level=level) for name in base}


def _half_width(difference: Float[np.ndarray, " n"], *, level: float) -> float:
    """Half the length of the t interval of a mean."""
    from scipy.stats import t as student_t

    n = difference.size
    quantile = float(student_t.ppf((1.0 + level) / 2.0, df=n - 1))
    return quantile * float(difference.std(ddof=1)) / float(np.sqrt(n))
