"""The report as tables of text: wide ones for a page (contestants down, measures across), a long one for a terminal."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vggrpo.evaluation.asset_rows import show_number
from vggrpo.evaluation.contest.contestants import BASE, TRUE
from vggrpo.evaluation.contest.measures import FAMILIES, ContestMeasure, Family
from vggrpo.evaluation.contest.question import Group
from vggrpo.evaluation.contest.report import ContestReport
from vggrpo.evaluation.contest.rows import Duel, Row
from vggrpo.evaluation.estimates import Estimate
from vggrpo.evaluation.judges import FRECHET

GAIN, LOSS, SEEN = "▲", "▼", "†"
LEGEND = (
    f"Change against base with its 95 % interval; base and true clips: the mean. {GAIN} better, {LOSS} worse, with the "
    "whole interval (for a guard: more, less). "
    f"{SEEN} its training looked at this measure. Intervals are for one cell at a time: of twenty that change nothing, "
    "one looks clear of zero."
)
GROUP_WORDS: dict[Group, str] = {
    "all": "static and dynamic worlds",
    "static": "static worlds",
    "dynamic": "dynamic worlds",
}
_NOTHING = "–"
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One table; the first column names the row. ``is_grouped``: a row that has a name begins a section."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_grouped: bool = False


def page_sheets(report: ContestReport) -> tuple[Sheet, ...]:
    """Everything, the verdicts first; a sheet may have no rows."""
    groups = report.question.groups()
    sheets = [_goals(report, group) for group in groups]
    for group in groups:
        sheets += [_changes(report, family, group=group) for family in FAMILIES]
        sheets += [_win_rates(report, group), _duels(report, group)]
    return (*sheets, _gaps(report))


def terminal_sheets(report: ContestReport) -> tuple[Sheet, ...]:
    """The verdicts, and every measure with its contestants below; rivals are on the page."""
    return (_goals(report, report.question.groups()[0]), _long(report), _gaps(report))


def signed(value: float, *, unit: str = "") -> str:
    """A change with its sign, a real minus sign."""
    if not math.isfinite(value):
        return _NOTHING
    if unit == "points":
        text = f"{100 * value:+.1f} points"
    elif unit == "share":
        text = f"{100 * value:+.0f} %"
    else:
        text = ("+" if value >= 0 else "-") + show_number(abs(value), unit=unit)
    return text.replace("-", "−", 1)


def change_of(row: Row | Duel, measure: ContestMeasure) -> str:
    """A change with its interval and whether it is clear: relative where that has a meaning, in points for shares."""
    if row.comparison is None:
        return _NOTHING
    relative, difference = row.comparison.relative, row.comparison.difference
    if measure.is_share:
        text = _with_interval(difference, unit="points")
    elif relative.is_measured:
        text = _with_interval(relative, unit="share")
    else:
        text = _with_interval(difference, unit=measure.unit)
    return f"{text} {_mark(difference, measure)}".rstrip()


def _with_interval(found: Estimate, *, unit: str) -> str:
    if not found.is_measured:
        return _NOTHING
    value = signed(found.value, unit=unit)
    if found.interval == "none":
        return value
    low, high = (signed(end, unit=unit).removesuffix(" points").removesuffix(" %") for end in (found.low, found.high))
    return f"{value} ({low} to {high})"


def _mark(difference: Estimate, measure: ContestMeasure) -> str:
    if difference.interval == "none" or difference.low <= 0.0 <= difference.high:
        return ""
    return GAIN if (difference.low > 0.0) == (measure.better == "higher") else LOSS


def _measures(report: ContestReport, family: Family) -> list[ContestMeasure]:
    return [measure for measure in report.measures if measure.family == family]


def _heading(measure: ContestMeasure) -> str:
    arrow = {"lower": " ↓", "higher": " ↑"}[measure.better] if measure.has_better else ""
    return f"{measure.title}{arrow}"


def _titles(report: ContestReport) -> list[tuple[str, str]]:
    """Names and titles of the rows of a table, true clips last."""
    titles = [(one.name, one.title) for one in report.contestants]
    return [*titles, (TRUE, "true clips")] if report.has_true_clips() else titles


def _cell(report: ContestReport, contestant: str, measure: ContestMeasure, *, group: Group) -> str:
    """A change against base; of base itself and of true clips the mean."""
    row = report.row(contestant, measure.name, group)
    if row is None:
        return _NOTHING
    if row.comparison is None:
        return show_number(row.mean.value, unit="%" if measure.is_share else measure.unit)
    seen = f" {SEEN}" if row.seen and measure.family != "own" else ""
    return change_of(row, measure) + seen


def _changes(report: ContestReport, family: Family, *, group: Group) -> Sheet:
    measures = _measures(report, family)
    return Sheet(
        title=f"{FAMILIES[family]}, {GROUP_WORDS[group]}",
        columns=("", *(_heading(measure) for measure in measures)),
        rows=tuple(
            (title, *(_cell(report, name, measure, group=group) for measure in measures))
            for name, title in _titles(report)
        ),
    )


def _long(report: ContestReport) -> Sheet:
    """A section a measure, a line a contestant, the groups side by side; prompts won are those of the widest group."""
    groups = report.question.groups()
    rows: list[tuple[str, ...]] = []
    for measure in report.measures:
        for index, (name, title) in enumerate(_titles(report)):
            cells = (_cell(report, name, measure, group=group) for group in groups)
            rows.append(
                (
                    _heading(measure) if index == 0 else "",
                    title,
                    *cells,
                    _won(report.row(name, measure.name, groups[0])),
                )
            )
    columns = ("", "", *(GROUP_WORDS[group] for group in groups), "prompts won")
    return Sheet(title="Change against base", columns=columns, rows=tuple(rows), is_grouped=True)


def _won(row: Row | Duel | None) -> str:
    """A win rate with its interval."""
    found = None if row is None or row.comparison is None else row.comparison.win_rate
    if found is None or not found.is_measured:
        return _NOTHING
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _win_rates(report: ContestReport, group: Group) -> Sheet:
    measures = [measure for measure in report.measures if measure.family != "own" and measure.name != FRECHET.name]
    return Sheet(
        title=f"Prompts won against base (for a guard: with more of it), {GROUP_WORDS[group]}",
        columns=("", *(_heading(measure) for measure in measures)),
        rows=tuple(
            (one.title, *(_won(report.row(one.name, measure.name, group)) for measure in measures))
            for one in report.contestants
            if one.name != BASE
        ),
    )


def _duels(report: ContestReport, group: Group) -> Sheet:
    """The tuned model against each of the others, by the judges that no training saw."""
    titles = {one.name: one.title for one in report.contestants}
    measures = _measures(report, "independent")
    found = {(duel.rival, duel.measure): duel for duel in report.duels if duel.group == group}
    rivals = list(dict.fromkeys(rival for rival, _ in found))
    champion = "" if report.champion is None else titles[report.champion]
    return Sheet(
        title=f"{champion} against each other one, {GROUP_WORDS[group]}",
        columns=("against", *(_heading(measure) for measure in measures)),
        rows=tuple(
            (titles[rival], *(change_of(found[rival, measure.name], measure) for measure in measures))
            for rival in rivals
        ),
    )


def _goals(report: ContestReport, group: Group) -> Sheet:
    """What the tuned model is meant to reach, and what it reached."""
    measures = {measure.name: measure for measure in report.measures}
    titles = {one.name: one.title for one in report.contestants}
    found: Sequence[Row | Duel] = [
        *(row for row in report.rows if (row.contestant, row.group) == (report.champion, group)),
        *(duel for duel in report.duels if duel.group == group),
    ]
    rows = tuple(
        (measures[one.measure].title, one.goal.text, change_of(one, measures[one.measure]), str(one.goal))
        for one in found
        if one.goal is not None
    )
    champion = "" if report.champion is None else titles[report.champion]
    return Sheet(
        title=f"Goals of {champion}, {GROUP_WORDS[group]}", columns=("measure", "goal", "found", "verdict"), rows=rows
    )


def _gaps(report: ContestReport) -> Sheet:
    """Where a judge could not judge: nothing stands in for those videos. Measures with the same gap share a line."""
    titles = dict(_titles(report))
    widest = report.question.groups()[0]
    kinds = [widest] if widest == "all" else list(report.question.groups())
    measures = {measure.name: measure.title for measure in report.measures}
    lines: dict[tuple[str, str, str], list[str]] = {}
    for row in report.rows:
        if row.group in kinds and row.judged < row.of:
            line = (titles[row.contestant], f"{row.judged} of {row.of}", _told(row.reasons))
            lines.setdefault(line, []).append(measures[row.measure])
    rows = tuple((who, ", ".join(names), judged, why) for (who, judged, why), names in lines.items())
    return Sheet(title="Videos that could not be judged", columns=("", "measure", "judged", "why not"), rows=rows)


def _told(reasons: Mapping[str, int]) -> str:
    """Counted reasons; those that differ in their numbers only are one, and the first of them stands for it."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(_NUMBER.sub("", reason), []).append(reason)
    counts = {of[0]: sum(reasons[one] for one in of) for of in alike.values()}
    return "; ".join(f"{count} × {reason}" for reason, count in counts.items())
