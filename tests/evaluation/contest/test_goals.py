"""Goals and verdicts. Oracle: cases by hand on either side of a bound, with the interval across it or not."""

import pytest

from vggrpo.evaluation.contest.goals import GOALS, RIVAL_MEASURES, Verdict, ahead_of, verdict_of
from vggrpo.evaluation.contest.statistics import Comparison
from vggrpo.evaluation.estimates import Estimate, not_measured

NAN = float("nan")


def estimate(value: float, low: float = NAN, high: float = NAN) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=9, interval="bootstrap" if low == low else "none")


def comparison(*, relative: Estimate | None = None, difference: Estimate | None = None) -> Comparison:
    missing = not_measured("nothing")
    return Comparison(difference=difference or missing, relative=relative or missing, win_rate=None)


@pytest.mark.parametrize(
    ("found", "met", "certain", "words"),
    [
        (estimate(-0.30, -0.40, -0.21), True, True, "reached"),
        (estimate(-0.20, -0.40, -0.05), True, False, "reached, but within the interval"),
        (estimate(-0.10, -0.25, 0.05), False, False, "not reached, but within the interval"),
        (estimate(0.10, 0.05, 0.15), False, True, "not reached"),
        (estimate(-0.30), True, None, "reached, but within the interval"),
        (not_measured("no judge"), None, None, "not measured"),
    ],
)
def test_a_reduction_by_a_fifth(found: Estimate, met: bool | None, certain: bool | None, words: str) -> None:
    verdict = verdict_of(GOALS, comparison(relative=found), measure="sampson")
    assert verdict is not None
    assert (verdict.met, verdict.certain, str(verdict)) == (met, certain, words)


@pytest.mark.parametrize(
    ("found", "met"), [(estimate(0.1, 0.01, 0.2), True), (estimate(0.1, -0.01, 0.2), False), (estimate(0.1), False)]
)
def test_smoothness_asks_for_its_whole_interval(found: Estimate, met: bool) -> None:
    verdict = verdict_of(GOALS, comparison(difference=found), measure="smoothness")
    assert verdict is not None
    assert verdict.met is met


@pytest.mark.parametrize(
    ("measure", "statistic", "good", "bad"),
    [
        ("reprojection", "relative", -0.2, -0.19),
        ("path_length", "relative", -0.15, -0.16),
        ("camera_prompt", "difference", -0.02, -0.021),
        ("object_prompt", "difference", -0.02, -0.021),
        ("frechet", "relative", 0.10, 0.11),
    ],
)
def test_every_bound_stands_where_the_issue_puts_it(measure: str, statistic: str, good: float, bad: float) -> None:
    verdicts = [verdict_of(GOALS, comparison(**{statistic: estimate(v)}), measure=measure) for v in (good, bad)]
    assert [verdict.met for verdict in verdicts if verdict] == [True, False]


def test_measures_without_a_goal_have_none() -> None:
    assert verdict_of(GOALS, comparison(), measure="sharpness") is None
    assert set(RIVAL_MEASURES) <= {goal.measure for goal in GOALS}


def test_ahead_is_better_and_not_equal() -> None:
    lower = comparison(difference=estimate(-0.1, -0.2, -0.05))
    assert ahead_of("SFT", lower, better="lower") == Verdict(text="ahead of SFT", met=True, certain=True)
    assert ahead_of("SFT", lower, better="higher").met is False
    assert ahead_of("SFT", comparison(difference=estimate(0.0, -0.1, 0.1)), better="lower").met is False
