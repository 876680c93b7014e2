"""The comparison as a forest of intervals: a panel a measure, a row a contestant, zero is the base model.

The change is relative to the base model's own value, so that every panel reads in per cent. What a judge could not
judge has no dot: the row says so.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from demo.evidence import BASE, TRUE_CLIPS, Contest, Contestant, ContestMeasure, ContestRow, GoalVerdict, Number
from demo.evidence_text import BETTER, CLIPS, FAMILIES
from demo.viewers.evidence_panels import FAINT, OTHERS, OURS, Content, Group, Panel, axis, key_html, layout
from demo.viewers.table import format_value

ROW_HEIGHT, TALL_ROW_HEIGHT, HEAD_HEIGHT, FOOT_HEIGHT = 25, 32, 8, 28
"""In pixels; rows are tall where a name takes two lines."""
_LEAST_REACH = 5.0
"""Per cent that an axis shows at least to both sides: chance differences must not fill a panel."""
_LONGEST_LABEL = 20
SEEN = "†"
"""Marks a contestant by a measure that its own training looked at."""


def contest_content(contest: Contest) -> Content:
    """Panels by kind of measure, the goals that are told, and the remarks of the report."""
    groups = []
    for family, heading in FAMILIES.items():
        panels = [_panel(contest, measure) for measure in contest.measures if measure.family == family]
        if panels:
            groups.append(Group(title=heading, panels=panels))
    champion = _title_of(contest.champion, contest)
    whose = {"dot ours": escape(champion), "dot others": "others"} if champion else {"dot others": "clear of zero"}
    key = key_html(whose | {"dot open": "the interval holds zero", "better": "better than base"})
    notes = [*_goal_notes(contest), *_duel_notes(contest), *(escape(remark) for remark in contest.remarks)]
    if any(row.seen_in_training for row in contest.rows):
        notes.append(f"{SEEN} Its training looked at this measure: no independent judge of it.")
    choices = {name: CLIPS.get(name, name) for name in contest.clips}
    return Content(groups=groups, notes=notes, key=key, choices=choices)


def rivals(contest: Contest) -> tuple[Contestant, ...]:
    """Who is compared with the base model."""
    return tuple(one for one in contest.contestants if one.name not in {BASE, TRUE_CLIPS})


def _goal_notes(contest: Contest) -> list[str]:
    """How many goals against the base model the champion reaches, and which it does not."""
    goals = {
        measure.title: row.goal
        for measure in contest.measures
        if (row := _champions(contest, measure.name)) is not None and row.goal is not None
    }
    title = _title_of(contest.champion, contest)
    return [_counted(f"{title} reaches {{}} of {{}} goals against base", goals)] if goals else []


def _duel_notes(contest: Contest) -> list[str]:
    """By how many judges the champion is ahead of the other objectives, and by which it is not."""
    titles = {measure.name: measure.title for measure in contest.measures}
    goals = {
        f"{titles.get(duel.measure, duel.measure)} of {_title_of(duel.rival, contest)}": duel.goal
        for duel in contest.duels
    }
    title = _title_of(contest.champion, contest)
    return [_counted(f"{title} is ahead of other objectives in {{}} of {{}} comparisons", goals)] if goals else []


def _counted(sentence: str, goals: Mapping[str, GoalVerdict]) -> str:
    """The sentence with how many are met of how many, and the names of the others."""
    missed = [name for name, goal in goals.items() if goal.met is False]
    unknown = [name for name, goal in goals.items() if goal.met is None]
    parts = [sentence.format(len(goals) - len(missed) - len(unknown), len(goals))]
    parts += [f"not: {', '.join(missed)}"] if missed else []
    parts += [f"not measured: {', '.join(unknown)}"] if unknown else []
    return f"<b>{escape('; '.join(parts))}.</b>"


def _champions(contest: Contest, measure: str) -> ContestRow | None:
    """The champion's row over the first group of clips."""
    return None if contest.champion is None else contest.row(contest.champion, measure=measure, clips=contest.clips[0])


def _title_of(name: str | None, contest: Contest) -> str:
    """What people call a contestant; nothing for nobody."""
    return next((one.title for one in contest.contestants if one.name == name), name or "")


def _panel(contest: Contest, measure: ContestMeasure) -> Panel:
    """One measure's forest, with the traces of every group of clips; only the first group's are shown."""
    entrants = rivals(contest)
    traces: list[dict[str, Any]] = []
    for clips in contest.clips:
        rows = [contest.row(one.name, measure=measure.name, clips=clips) for one in entrants]
        found = _traces(entrants, rows, clips=clips, champion=contest.champion)
        traces += [trace | {"visible": clips == contest.clips[0]} for trace in found]
    reach = _reach(contest, measure)
    first = [contest.row(one.name, measure=measure.name, clips=contest.clips[0]) for one in entrants]
    return Panel(
        title=f"{escape(measure.title[:1].upper() + measure.title[1:])}<em>{BETTER[measure.better]}</em>",
        facts=_facts(contest, measure),
        figure={"data": traces, "layout": _layout(entrants, measure, reach=reach)},
        spoken=_spoken(entrants, first, measure=measure),
    )


def _traces(
    entrants: Sequence[Contestant], rows: Sequence[ContestRow | None], *, clips: str, champion: str | None
) -> list[dict[str, Any]]:
    """Dots with intervals, in four looks (ours or not, clear of zero or not), and the words beside them."""
    found: list[dict[str, Any]] = []
    for kind in ("ours", "others"):
        for look in ("clear", "open"):
            picked = [
                (one, row)
                for one, row in zip(entrants, rows, strict=True)
                if row is not None
                and row.relative is not None
                and row.relative.value is not None
                and (one.name == champion) == (kind == "ours")
                and row.relative.excludes_zero == (look == "clear")
            ]
            if picked:
                found.append(_dots(picked, uid=f"{kind}-{look}-{clips}", is_ours=kind == "ours"))
    found.append(_words(entrants, rows, clips=clips))
    return [trace | {"meta": {"clips": clips}} for trace in found]


def _dots(picked: Sequence[tuple[Contestant, ContestRow]], *, uid: str, is_ours: bool) -> dict[str, Any]:
    changes = [row.relative for _, row in picked]
    numbers = [change for change in changes if change is not None and change.value is not None]
    colour = OURS if is_ours else OTHERS
    return {
        "type": "scatter",
        "mode": "markers",
        "uid": uid,
        "x": [_percent(number.value) for number in numbers],
        "y": [_label(one) for one, _ in picked],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_length(number, end="high") for number in numbers],
            "arrayminus": [_length(number, end="low") for number in numbers],
            "thickness": 2,
            "width": 0,
            "color": colour,
        },
        "marker": {"size": 9, "color": colour, "symbol": "circle" if "-clear-" in uid else "circle-open"},
        "hovertext": [_told(one, row) for one, row in picked],
        "hoverinfo": "text",
    }


def _words(entrants: Sequence[Contestant], rows: Sequence[ContestRow | None], *, clips: str) -> dict[str, Any]:
    """At the end of every row: the share of prompts won, or that nothing could be compared."""
    texts = []
    for row in rows:
        if row is None or row.relative is None or row.relative.value is None:
            texts.append("not judged")
        elif row.win_rate is None or row.win_rate.value is None:
            texts.append("")
        else:
            texts.append(f"{100 * row.win_rate.value:.0f} %{_mark(row)}")
    return {
        "type": "scatter",
        "mode": "text",
        "uid": f"words-{clips}",
        "x": [1.0] * len(texts),
        "xaxis": "x2",
        "y": [_label(one) for one in entrants],
        "text": texts,
        "cliponaxis": False,
        "textposition": "middle left",
        "hovertext": ["" if row is None else _told(one, row) for one, row in zip(entrants, rows, strict=True)],
        "hoverinfo": "text",
    }


def _layout(entrants: Sequence[Contestant], measure: ContestMeasure, *, reach: float) -> dict[str, Any]:
    """Contestants from top to bottom, zero in the middle, the better side shaded; goals are told in words."""
    shapes: list[dict[str, Any]] = [
        {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": FAINT, "width": 1}}
    ]
    if measure.better != "guard":
        far = -reach if measure.better == "lower" else reach
        shapes.append(
            {
                "type": "rect",
                "x0": 0,
                "x1": far,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "layer": "below",
                "line": {"width": 0},
                "fillcolor": FAINT,
                "opacity": 0.14,
            }
        )
    labels = [_label(one) for one in entrants]
    row_height = TALL_ROW_HEIGHT if any("<br>" in label for label in labels) else ROW_HEIGHT
    step = _tick_step(reach)
    ticks = [-2 * step, -step, 0.0, step, 2 * step]
    return layout(
        height=HEAD_HEIGHT + FOOT_HEIGHT + row_height * len(entrants),
        margin={"l": 8, "r": 6, "t": HEAD_HEIGHT, "b": FOOT_HEIGHT},
        shapes=shapes,
        xaxis=axis(
            range=[-reach, reach],
            domain=[0.0, 0.84],
            anchor="y",
            tickvals=ticks,
            ticktext=[
                f"{tick:+g}".replace("-", "−") + (" %" if tick > step else "") if tick else "0" for tick in ticks
            ],
        ),
        xaxis2=axis(range=[0, 1], domain=[0.84, 1.0], anchor="y", visible=False),
        yaxis=axis(
            type="category",
            categoryorder="array",
            categoryarray=labels,
            range=[len(entrants) - 0.5, -0.5],
            automargin=True,
            showgrid=False,
            tickfont={"size": 11},
        ),
    )


def _tick_step(reach: float) -> float:
    """The largest of 1, 2, 5, 10 … of which two fit on a side."""
    power = 10.0 ** math.floor(math.log10(reach / 2))
    return max(factor * power for factor in (1, 2, 5) if 2 * factor * power <= reach)


def _reach(contest: Contest, measure: ContestMeasure) -> float:
    """Per cent to both sides of zero that hold every interval of every group of clips, a little rounded up."""
    ends = [
        abs(_percent(end))
        for row in contest.rows
        if row.measure == measure.name and row.relative is not None
        for end in (row.relative.value, row.relative.low, row.relative.high)
        if end is not None
    ]
    widest = 1.08 * max([_LEAST_REACH, *ends])
    step = 10.0 ** math.floor(math.log10(widest)) / 2.0
    return math.ceil(widest / step) * step


def _facts(contest: Contest, measure: ContestMeasure) -> list[str]:
    """Under the title: the base's own value (and that of true clips), gaps, and the goal."""
    clips = contest.clips[0]
    facts = []
    means = [
        (title, row.mean)
        for name, title in ((BASE, "base"), (TRUE_CLIPS, "true clips"))
        if (row := contest.row(name, measure=measure.name, clips=clips)) is not None
    ]
    told = [f"{title} {_with_unit(mean, measure)}" for title, mean in means if mean.value is not None]
    rows = [row for row in contest.rows if row.measure == measure.name and row.clips == clips]
    judged = [row for row in rows if row.asked]
    fewest = min(judged, key=lambda row: row.judged / row.asked, default=None)
    if fewest is not None and fewest.judged < fewest.asked:
        why = ", ".join(f"{reason}: {count}" for reason, count in fewest.reasons.items())
        told.append(f"at least {fewest.judged} of {fewest.asked} judged{f' ({escape(why)})' if why else ''}")
    if told:
        facts.append(" · ".join(told))
    ours = _champions(contest, measure.name)
    if ours is not None and ours.goal is not None:
        title = escape(_title_of(contest.champion, contest))
        facts.append(f"goal of {title}: {escape(ours.goal.text)} · <b>{_verdict(ours)}</b>")
    return facts


def _verdict(row: ContestRow) -> str:
    goal = row.goal
    if goal is None or goal.met is None:
        return "not measured"
    word = "reached" if goal.met else "not reached"
    return word if goal.certain is not False else f"{word}, within chance"


def _told(one: Contestant, row: ContestRow) -> str:
    """Everything of one row, as the pointer asks for it."""
    lines = [f"<b>{escape(one.title)}</b>"]
    if row.relative is None or row.relative.value is None:
        reason = row.relative.reason if row.relative is not None else None
        lines.append(f"not judged: {escape(reason or 'no reason was given')}")
    else:
        lines.append(f"{_signed(row.relative.value)}{_between(row.relative)}")
    if row.mean.value is not None:
        lines.append(f"mean {format_value(row.mean.value)}")
    if row.win_rate is not None and row.win_rate.value is not None:
        lines.append(f"wins {100 * row.win_rate.value:.0f} % of prompts")
    lines.append(f"{row.judged} of {row.asked} judged")
    if row.seen_in_training:
        lines.append("its training looked at this measure")
    return "<br>".join(lines)


def _mark(row: ContestRow) -> str:
    return f" {SEEN}" if row.seen_in_training else ""


def _spoken(entrants: Sequence[Contestant], rows: Sequence[ContestRow | None], *, measure: ContestMeasure) -> str:
    """The panel in words."""
    parts = []
    for one, row in zip(entrants, rows, strict=True):
        if row is None or row.relative is None or row.relative.value is None:
            parts.append(f"{one.title} not judged")
        else:
            parts.append(f"{one.title} {_signed(row.relative.value)}{_between(row.relative)}")
    return f"{measure.title}, {BETTER[measure.better]}, change against base: {'; '.join(parts)}."


def _label(one: Contestant) -> str:
    """A title of two lines where it is long."""
    if len(one.title) <= _LONGEST_LABEL:
        return escape(one.title)
    words = one.title.split(" ")
    breaks = [" ".join(words[:at]) for at in range(1, len(words))]
    first = min(breaks, key=lambda part: abs(len(part) - len(one.title) / 2), default=one.title)
    return f"{escape(first)}<br>{escape(one.title[len(first) + 1 :])}"


def _with_unit(mean: Number, measure: ContestMeasure) -> str:
    return f"{format_value(mean.value)}{f' {escape(measure.unit)}' if measure.unit else ''}"


def _between(number: Number) -> str:
    if number.low is None or number.high is None:
        return ""
    return f" ({_signed(number.low)} to {_signed(number.high)})"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def _percent(share: float | None) -> float:
    """Of a number that is there."""
    assert share is not None
    return round(100.0 * share, 4)


def _length(number: Number, *, end: str) -> float:
    """Of the bar to one side; nothing without an interval."""
    bound = number.high if end == "high" else number.low
    if bound is None or number.value is None:
        return 0.0
    return max(0.0, round(100.0 * abs(bound - number.value), 4))
