"""What the tuned model is meant to reach against its base, and whether a comparison shows that it does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vggrpo.evaluation.contest.statistics import Comparison, Direction
from vggrpo.evaluation.estimates import Estimate

Statistic = Literal["relative", "difference"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A bound on one statistic of one measure. ``clear``: the whole interval must keep it, not only the value."""

    measure: str
    text: str
    statistic: Statistic
    bound: float
    at_most: bool
    clear: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """``met`` is None where nothing was measured; ``certain`` says whether the whole interval lies on that side of the
    bound, None without an interval."""

    text: str
    met: bool | None
    certain: bool | None

    def __str__(self) -> str:
        if self.met is None:
            return "not measured"
        word = "reached" if self.met else "not reached"
        return word if self.certain else f"{word}, but within the interval"

    def to_json(self) -> dict[str, object]:
        """For a result file."""
        return {"text": self.text, "met": self.met, "certain": self.certain}


GOALS = (
    Goal(measure="sampson", text="−20 % or better", statistic="relative", bound=-0.20, at_most=True),
    Goal(measure="reprojection", text="−20 % or better", statistic="relative", bound=-0.20, at_most=True),
    Goal(
        measure="smoothness",
        text="better, its interval clear of zero",
        statistic="difference",
        bound=0.0,
        at_most=False,
        clear=True,
    ),
    Goal(measure="path_length", text="at least 85 % of base", statistic="relative", bound=-0.15, at_most=False),
    Goal(
        measure="camera_prompt",
        text="within 2 points of base",
        statistic="difference",
        bound=-0.02,
        at_most=False,
    ),
    Goal(
        measure="object_prompt",
        text="within 2 points of base",
        statistic="difference",
        bound=-0.02,
        at_most=False,
    ),
    Goal(measure="frechet", text="at most 10 % above base", statistic="relative", bound=0.10, at_most=True),
)
"""The goals of the shipped adapter against base."""
RIVAL_MEASURES = ("sampson", "reprojection", "smoothness")
"""Where it is meant to be ahead of other objectives: the independent judges."""


def verdict_of(goals: Sequence[Goal], comparison: Comparison, *, measure: str) -> Verdict | None:
    """Whether a comparison with base reaches the measure's goal; None for a measure without one."""
    goal = next((one for one in goals if one.measure == measure), None)
    if goal is None:
        return None
    found = comparison.relative if goal.statistic == "relative" else comparison.difference
    return _judged(goal, found)


def ahead_of(rival: str, comparison: Comparison, *, better: Direction) -> Verdict:
    """Whether the contestant is ahead of a rival."""
    goal = Goal(
        measure="", text=f"ahead of {rival}", statistic="difference", bound=0.0, at_most=better == "lower", clear=False
    )
    return _judged(goal, comparison.difference)


def _judged(goal: Goal, found: Estimate) -> Verdict:
    if not found.is_measured:
        return Verdict(text=goal.text, met=None, certain=None)
    keeps = [_keeps(goal, one) for one in (found.value, found.low, found.high) if math.isfinite(one)]
    has_interval = len(keeps) == 3
    met = has_interval and all(keeps) if goal.clear else keeps[0]
    # A goal that asks for the whole interval is certain either way.
    certain = None if not has_interval else goal.clear or len(set(keeps)) == 1
    return Verdict(text=goal.text, met=met, certain=certain)


def _keeps(goal: Goal, value: float) -> bool:
    """A goal of exactly zero is to be better than that, not equal."""
    if goal.bound == 0.0:
        return value < 0.0 if goal.at_most else value > 0.0
    return value <= goal.bound if goal.at_most else value >= goal.bound
