"""From numbers of videos to what can be said of them: a contestant against a rival, prompt by prompt.

The unit is the prompt. Two videos of one prompt share its scene and are no independent evidence, so they are averaged
first, over the noise seeds that could be judged on BOTH sides; prompts are then what is resampled:

    difference    mean_p (c_p − b_p)
    relative      (mean_p c_p − mean_p b_p) / |mean_p b_p|
    win rate      share of the prompts where c_p is better than b_p, ties half; Wilson's interval

c_p and b_p are the contestant's and the rival's means of prompt p. Intervals of the first two are percentiles of 2000
paired bootstrap resamples of prompts. They are for one comparison at a time: of twenty that change nothing, one will
look clear of zero.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from vggrpo.evaluation import estimates
from vggrpo.evaluation.estimates import Estimate

Direction = Literal["lower", "higher"]
_OF = "prompts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One measure of one contestant's videos: a row a prompt, a column a repeat, NaN where it could not be judged.

    ``reasons`` are why, by row and column, one for each NaN.
    """

    values: Float[np.ndarray, "prompts repeats"]
    reasons: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """How many videos have a number."""
        return int(np.isfinite(self.values).sum())

    @property
    def of(self) -> int:
        """How many videos there are."""
        return int(self.values.size)

    def reason_counts(self) -> dict[str, int]:
        """Why videos could not be judged, the commonest first."""
        return dict(Counter(self.reasons.values()).most_common())

    def only(self, prompts: Sequence[int]) -> "Scores":
        """The videos of some prompts."""
        place = {prompt: row for row, prompt in enumerate(prompts)}
        kept = {(place[row], column): why for (row, column), why in self.reasons.items() if row in place}
        return Scores(values=self.values[list(prompts)], reasons=kept)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """``contestant − rival`` of one measure over prompts; see the module's text.

    ``win_rate`` is None for a measure of all videos together, which nobody wins prompt by prompt.
    """

    difference: Estimate
    relative: Estimate
    win_rate: Estimate | None


def mean_of(scores: Scores) -> Estimate:
    """The mean over prompts, of the videos that could be judged."""
    return estimates.mean(_prompt_means(scores.values), of=_OF)


def compare(scores: Scores, *, rival: Scores, better: Direction) -> Comparison:
    """A contestant against a rival at the same prompts and noise. Raises a ValueError where these differ in number."""
    if scores.values.shape != rival.values.shape:
        raise ValueError(f"{scores.values.shape} videos of a contestant and {rival.values.shape} of a rival: no pairs")
    both = np.isfinite(scores.values) & np.isfinite(rival.values)
    own, other = (_prompt_means(np.where(both, side.values, np.nan)) for side in (scores, rival))
    rows = np.stack([own, other], axis=1)
    return Comparison(
        difference=estimates.bootstrap(rows, statistic=_difference, of=_OF),
        relative=_relative_change(rows),
        win_rate=_win_rate(own - other, better=better),
    )


def _prompt_means(values: Float[np.ndarray, "prompts repeats"]) -> Float[np.ndarray, " prompts"]:
    """The mean of each row's finite values, NaN for a row without any."""
    judged = np.isfinite(values)
    counts = judged.sum(axis=1)
    return np.where(counts > 0, np.where(judged, values, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)


def _difference(rows: np.ndarray) -> np.ndarray:
    return np.asarray((rows[..., 0] - rows[..., 1]).mean(axis=-1))


def _relative(rows: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to be relative to."""
    own, other = rows.mean(axis=-2)[..., 0], rows.mean(axis=-2)[..., 1]
    return np.asarray((own - other) / np.where(other == 0, np.nan, np.abs(other)))


def _relative_change(rows: Float[np.ndarray, "prompts 2"]) -> Estimate:
    """Not measured where the rival's own mean is not clear of zero: a share of almost nothing says nothing."""
    usable = rows[np.isfinite(rows).all(axis=1)]
    rival = estimates.mean(usable[:, 1], of=_OF)
    if rival.is_measured and rival.low <= 0.0 <= rival.high:
        left_out = len(rows) - len(usable)
        return estimates.not_measured("the other side's mean is not clear of zero", of=_OF, left_out=left_out)
    return estimates.bootstrap(rows, statistic=_relative, of=_OF)


def _win_rate(difference: Float[np.ndarray, " prompts"], *, better: Direction) -> Estimate:
    judged = difference[np.isfinite(difference)]
    gain = judged if better == "higher" else -judged
    return estimates.share([0.5 * (1.0 + float(np.sign(one))) for one in gain], of=_OF)
