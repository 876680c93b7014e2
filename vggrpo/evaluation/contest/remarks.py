"""What a reader of the tables must know, in sentences: who is ahead of whom, and what weakens a number."""

from collections.abc import Iterator

from vggrpo.evaluation.asset_rows import show_number
from vggrpo.evaluation.contest.contestants import BASE, TRUE
from vggrpo.evaluation.contest.measures import ContestMeasure
from vggrpo.evaluation.contest.report import ContestReport
from vggrpo.evaluation.contest.rows import Row
from vggrpo.evaluation.contest.tables import change_of
from vggrpo.evaluation.estimates import Estimate
from vggrpo.evaluation.judges import FRECHET

UNEQUAL_GAPS = 0.05
"""A judge that judges this much less of a contestant's videos than of base's judges a selection."""
FEWEST_PROMPTS = 16
"""Below this a percentile interval is too narrow to be believed."""


def remarks_of(report: ContestReport) -> tuple[str, ...]:
    """All remarks, the most important first."""
    return (
        *_losses(report),
        *_gains(report),
        *_smallness(report),
        *_budgets(report),
        *_selections(report),
        *_unjudged(report),
        *_frechet(report),
    )


def _widest(report: ContestReport) -> list[Row]:
    group = report.question.groups()[0]
    return [row for row in report.rows if row.group == group and row.comparison is not None]


def _independent(report: ContestReport) -> dict[str, ContestMeasure]:
    return {measure.name: measure for measure in report.measures if measure.family == "independent"}


def _losses(report: ContestReport) -> Iterator[str]:
    """Where a rival is ahead of the tuned model with its whole interval, said first; and what it may have given up."""
    measures, titles = _independent(report), {one.name: one.title for one in report.contestants}
    group = report.question.groups()[0]
    lost: dict[str, list[str]] = {}
    for duel in report.duels:
        if duel.group != group or duel.measure not in measures or duel.comparison.difference.interval == "none":
            continue
        measure = measures[duel.measure]
        found = duel.comparison.difference
        is_behind = found.low > 0.0 if measure.better == "lower" else found.high < 0.0
        if is_behind:
            lost.setdefault(duel.rival, []).append(f"{measure.title} {change_of(duel, measure)}")
    for rival, found_by in lost.items():
        champion = titles[report.champion or ""]
        changed = _changed_guards(report, rival)
        guards = f"; {titles[rival]} against base has {', '.join(changed)}" if changed else ""
        yield f"{titles[rival]} is ahead of {champion}, which against it has {', '.join(found_by)}{guards}."


def _changed_guards(report: ContestReport, contestant: str) -> list[str]:
    """Guards that a contestant moved with their whole interval: a gain may have been paid with them."""
    guards = {measure.name: measure for measure in report.measures if not measure.has_better}
    rows = [row for row in _widest(report) if row.contestant == contestant and row.measure in guards]
    return [
        f"{guards[row.measure].title} {change_of(row, guards[row.measure])}"
        for row in rows
        if row.comparison is not None and _is_clear_of_zero(row.comparison.difference)
    ]


def _is_clear_of_zero(found: Estimate) -> bool:
    return found.interval != "none" and not found.low <= 0.0 <= found.high


def _gains(report: ContestReport) -> Iterator[str]:
    """What the tuned model changed against base, in one sentence."""
    if report.champion is None:
        return
    title = next(one.title for one in report.contestants if one.name == report.champion)
    measures = _independent(report)
    rows = [row for row in _widest(report) if row.contestant == report.champion and row.measure in measures]
    found = [f"{measures[row.measure].title} {change_of(row, measures[row.measure])}" for row in rows]
    yield f"{title} against base: {', '.join(found)}."


def _smallness(report: ContestReport) -> Iterator[str]:
    prompts = min(len(report.question.indices(group)) for group in report.question.groups())
    if prompts < FEWEST_PROMPTS:
        yield f"With {prompts} prompts a group, intervals are a rough sign only: ask more before you believe one."


def _budgets(report: ContestReport) -> Iterator[str]:
    """Training must have cost all of them the same."""
    budgets = {one.title: one.videos for one in report.contestants if one.videos is not None}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{title} {videos}" for title, videos in budgets.items())
        yield f"The contestants were trained on different numbers of videos, so they are no equals: {told}."


def _selections(report: ContestReport) -> Iterator[str]:
    """Where a judge judged much more or less of some contestants' videos than of base's: one sentence a judge."""
    titles = {one.name: one.title for one in report.contestants}
    measures = {measure.name: measure.title for measure in report.measures}
    uneven: dict[str, list[str]] = {}
    for row in _widest(report):
        base = report.row(BASE, row.measure, row.group)
        if base is None or not row.judged or not base.of:
            continue
        if abs(base.judged / base.of - row.judged / row.of) >= UNEQUAL_GAPS:
            uneven.setdefault(row.measure, []).append(f"{row.judged} of {row.of} of {titles[row.contestant]}")
    for name, others in uneven.items():
        base = report.row(BASE, name, report.question.groups()[0])
        assert base is not None
        yield (
            f"{measures[name]} judged {base.judged} of {base.of} videos of base, {', '.join(others)}: compare it with "
            "care."
        )


def _unjudged(report: ContestReport) -> Iterator[str]:
    """Whom a judge could not judge at all, and why: one sentence for all judges of one reason."""
    titles = {one.name: one.title for one in report.contestants}
    measures = {measure.name: measure.title for measure in report.measures}
    found: dict[tuple[str, str], list[str]] = {}
    for row in _widest(report):
        base = report.row(BASE, row.measure, row.group)
        if row.of and not row.judged and base is not None and base.judged:
            found.setdefault((row.contestant, ", ".join(row.reasons)), []).append(measures[row.measure])
    for (contestant, reason), judges in found.items():
        yield f"{titles[contestant]} has no {', '.join(judges)}: {reason}."


def _frechet(report: ContestReport) -> Iterator[str]:
    """What true clips among themselves give, beside base's distance."""
    group = report.question.groups()[0]
    base, true = (report.row(name, FRECHET.name, group) for name in (BASE, TRUE))
    if base is None or not base.mean.is_measured:
        return
    if report.frechet_basis is not None:
        yield (
            f"Fréchet distances are corrected for the number of clips and measured in {report.frechet_basis} of the "
            "true clips' features."
        )
    if true is not None and true.mean.is_measured:
        yield (
            f"Other true clips are {show_number(true.mean.value)} from the true clips, base is "
            f"{show_number(base.mean.value)}: the first would be 0 for infinitely many."
        )
