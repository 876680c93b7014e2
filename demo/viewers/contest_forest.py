"""One measure of the comparison as a forest of intervals: a row a contestant, zero is the base model.

The change is relative to the base model's own value, in per cent, so that all panels read alike; shares of prompts
followed change in points. What a judge could not judge has no dot: the row says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from demo.evidence import BASE, TRUE_CLIPS, Contest, Contestant, ContestMeasure, ContestRow, Number
from demo.evidence_text import BETTER, SEEN
from demo.viewers.evidence_panels import FAINT, OTHERS, OURS, Fact, Panel, axis, html_of, layout
from demo.viewers.table import format_value

IN_POINTS = frozenset({"camera_prompt", "object_prompt"})
"""Measures whose change is told in points."""
ROW_HEIGHT, TALL_ROW_HEIGHT, HEAD_HEIGHT, FOOT_HEIGHT = 25, 32, 8, 28
"""In pixels; rows are tall where a name takes two lines."""
_LEAST_REACH = 5.0
"""Per cent that an axis shows at least to both sides: chance differences must not fill a panel."""
_LONGEST_LABEL = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A contestant's row over some clips, if there is one, and its change against base, if there is one."""

    contestant: Contestant
    row: ContestRow | None
    change: Number | None

    @property
    def label(self) -> str:
        """The title, in two lines where it is long."""
        title = self.contestant.title
        if len(title) <= _LONGEST_LABEL:
            return escape(title)
        words = title.split(" ")
        breaks = [" ".join(words[:at]) for at in range(1, len(words))]
        first = min(breaks, key=lambda part: abs(len(part) - len(title) / 2), default=title)
        return f"{escape(first)}<br>{escape(title[len(first) + 1 :])}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """The panel of one measure."""

    contest: Contest
    measure: ContestMeasure

    def panel(self) -> Panel:
        """With the traces and facts of every group of clips; only the first group's are shown."""
        traces: list[dict[str, Any]] = []
        for index, clips in enumerate(self.contest.clips):
            traces += [trace | {"visible": index == 0} for trace in self._traces(clips)]
        title = self.measure.title[:1].upper() + self.measure.title[1:]
        return Panel(
            title=f"{html_of(title)}<em>{BETTER[self.measure.better]}</em>",
            facts=[fact for clips in self.contest.clips for fact in self._facts(clips)],
            figure={"data": traces, "layout": self._layout()},
            spoken=self._spoken(),
        )

    def entries(self, clips: str) -> tuple[Entry, ...]:
        """Everybody who is compared with the base model."""
        found = []
        for one in self.contest.contestants:
            if one.name in {BASE, TRUE_CLIPS}:
                continue
            row = self.contest.row(one.name, measure=self.measure.name, clips=clips)
            change = None if row is None else self._change(row)
            is_known = change is not None and change.value is not None
            found.append(Entry(contestant=one, row=row, change=change if is_known else None))
        return tuple(found)

    @property
    def unit(self) -> str:
        """Of the change."""
        return "points" if self.measure.name in IN_POINTS else "%"

    def _change(self, row: ContestRow) -> Number | None:
        return row.difference if self.measure.name in IN_POINTS else row.relative

    def _traces(self, clips: str) -> list[dict[str, Any]]:
        """Dots with intervals, in four looks (champion or not, clear of zero or not), and the words beside them."""
        entries = self.entries(clips)
        found: list[dict[str, Any]] = []
        for kind in ("ours", "others"):
            for look in ("clear", "open"):
                picked = [
                    entry
                    for entry in entries
                    if entry.change is not None
                    and (entry.contestant.name == self.contest.champion) == (kind == "ours")
                    and entry.change.excludes_zero == (look == "clear")
                ]
                if picked:
                    found.append(self._dots(picked, uid=f"{kind}-{look}-{clips}"))
        found.append(self._words(entries, clips=clips))
        return [trace | {"meta": {"clips": clips}} for trace in found]

    def _dots(self, picked: Sequence[Entry], *, uid: str) -> dict[str, Any]:
        changes = [entry.change for entry in picked if entry.change is not None]
        colour = OURS if uid.startswith("ours") else OTHERS
        return {
            "type": "scatter",
            "mode": "markers",
            "uid": uid,
            "x": [_percent(change.value) for change in changes],
            "y": [entry.label for entry in picked],
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [_length(change, to=change.high) for change in changes],
                "arrayminus": [_length(change, to=change.low) for change in changes],
                "thickness": 2,
                "width": 0,
                "color": colour,
            },
            "marker": {"size": 9, "color": colour, "symbol": "circle" if "-clear-" in uid else "circle-open"},
            "hovertext": [self._told(entry) for entry in picked],
            "hoverinfo": "text",
        }

    def _words(self, entries: Sequence[Entry], *, clips: str) -> dict[str, Any]:
        """At the end of every row: the share of prompts won, or that nothing could be compared."""
        texts = []
        for entry in entries:
            wins = None if entry.row is None or entry.row.win_rate is None else entry.row.win_rate.value
            mark = f" {SEEN}" if entry.row is not None and entry.row.seen_in_training else ""
            known = "" if wins is None else f"{100 * wins:.0f} %{mark}"
            texts.append(known if entry.change is not None else self._why_without(entry))
        return {
            "type": "scatter",
            "mode": "text",
            "uid": f"words-{clips}",
            "x": [1.0] * len(texts),
            "xaxis": "x2",
            "y": [entry.label for entry in entries],
            "text": texts,
            "cliponaxis": False,
            "textposition": "middle left",
            "hovertext": [self._told(entry) for entry in entries],
            "hoverinfo": "text",
        }

    def _why_without(self, entry: Entry) -> str:
        """Why a row has no dot, in two words: nothing was judged, or base has no value to relate a change to."""
        return "no ratio" if entry.row is not None and entry.row.mean.value is not None else "not judged"

    def _layout(self) -> dict[str, Any]:
        """Contestants from top to bottom, zero in the middle, the better side shaded."""
        labels = [entry.label for entry in self.entries(self.contest.clips[0])]
        row_height = TALL_ROW_HEIGHT if any("<br>" in label for label in labels) else ROW_HEIGHT
        reach = self._reach()
        step = _tick_step(reach)
        ticks = [-2 * step, -step, 0.0, step, 2 * step]
        return layout(
            height=HEAD_HEIGHT + FOOT_HEIGHT + row_height * len(labels),
            margin={"l": 8, "r": 6, "t": HEAD_HEIGHT, "b": FOOT_HEIGHT},
            shapes=self._shapes(reach),
            xaxis=axis(
                range=[-reach, reach],
                domain=[0.0, 0.84],
                anchor="y",
                tickvals=ticks,
                tickangle=0,
                # Every second line is named: in a narrow card more names would run into each other.
                ticktext=[
                    "" if abs(tick) == step else f"{_signed(tick)}{f' {self.unit}' if tick > step else ''}"
                    for tick in ticks
                ],
            ),
            xaxis2=axis(range=[0, 1], domain=[0.84, 1.0], anchor="y", visible=False),
            yaxis=axis(
                type="category",
                categoryorder="array",
                categoryarray=labels,
                range=[len(labels) - 0.5, -0.5],
                automargin=True,
                showgrid=False,
                tickfont={"size": 11},
            ),
        )

    def _shapes(self, reach: float) -> list[dict[str, Any]]:
        """A line at zero, and a shade over the better side of a measure that has one."""
        upright = {"y0": 0, "y1": 1, "yref": "paper"}
        shapes: list[dict[str, Any]] = [
            {"type": "line", "x0": 0, "x1": 0, "line": {"color": FAINT, "width": 1}} | upright
        ]
        if self.measure.better != "guard":
            far = -reach if self.measure.better == "lower" else reach
            shade = {"layer": "below", "line": {"width": 0}, "fillcolor": FAINT, "opacity": 0.14}
            shapes.append({"type": "rect", "x0": 0, "x1": far} | shade | upright)
        return shapes

    def _reach(self) -> float:
        """Per cent to both sides of zero that hold every interval of every group of clips, a little rounded up."""
        changes = [entry.change for clips in self.contest.clips for entry in self.entries(clips)]
        ends = [
            abs(_percent(end))
            for change in changes
            if change is not None
            for end in (change.value, change.low, change.high)
            if end is not None
        ]
        widest = 1.08 * max([_LEAST_REACH, *ends])
        step = 10.0 ** math.floor(math.log10(widest)) / 2.0
        return math.ceil(widest / step) * step

    def _facts(self, clips: str) -> list[Fact]:
        """Under the title: the base's own value (and that of true clips), gaps, and the goal."""
        rows = {
            row.contestant: row for row in self.contest.rows if (row.measure, row.clips) == (self.measure.name, clips)
        }
        told = [
            f"{title} {self._with_unit(rows[name].mean)}"
            for name, title in ((BASE, "base"), (TRUE_CLIPS, "true clips"))
            if name in rows and rows[name].mean.value is not None
        ]
        told += self._gaps([row for row in rows.values() if row.asked])
        facts = [Fact(text=" · ".join(told), clips=clips)] if told else []
        champion = rows.get(self.contest.champion or "")
        if champion is not None and champion.goal is not None:
            title = escape(self.contest.title_of(champion.contestant))
            goal = f"goal of {title}: {escape(champion.goal.text)} · <b>{champion.goal.in_words}</b>"
            facts.append(Fact(text=goal, clips=clips))
        return facts

    def _gaps(self, asked: Sequence[ContestRow]) -> list[str]:
        """Where this judge could not judge: the fewest of those whom it could, and whom it could not at all."""
        judged = [row for row in asked if row.judged]
        if asked and not judged:
            return [f"nothing judged{_reasons(asked[0])}"]
        fewest = min(judged, key=lambda row: row.judged / row.asked, default=None)
        told = []
        if fewest is not None and fewest.judged < fewest.asked:
            told.append(f"at least {fewest.judged} of {fewest.asked} judged{_reasons(fewest)}")
        unjudged = [row for row in asked if not row.judged]
        told += [f"{escape(self.contest.title_of(row.contestant))} not judged{_reasons(row)}" for row in unjudged]
        return told

    def _told(self, entry: Entry) -> str:
        """Everything of one row, as the pointer asks for it."""
        lines = [f"<b>{escape(entry.contestant.title)}</b>"]
        row = entry.row
        if entry.change is not None:
            lines.append(self._in_words(entry.change))
        else:
            found = None if row is None else self._change(row)
            lines.append(f"not judged: {escape((found.reason if found else None) or 'no reason was given')}")
        if row is not None:
            if row.mean.value is not None:
                lines.append(f"mean {self._with_unit(row.mean)}")
            if row.win_rate is not None and row.win_rate.value is not None:
                lines.append(f"wins {100 * row.win_rate.value:.0f} % of prompts")
            lines.append(f"{row.judged} of {row.asked} judged")
            if row.seen_in_training:
                lines.append("its training looked at this measure")
        return "<br>".join(lines)

    def _spoken(self) -> str:
        """The panel in words."""
        entries = self.entries(self.contest.clips[0])
        parts = [
            f"{entry.contestant.title} {'not judged' if entry.change is None else self._in_words(entry.change)}"
            for entry in entries
        ]
        title = self.measure.title
        return f"{title}, {BETTER[self.measure.better]}, change against base: {'; '.join(parts)}."

    def _in_words(self, change: Number) -> str:
        """The change with its interval."""
        told = f"{_signed(_percent(change.value), digits=1)} {self.unit}"
        if change.low is None or change.high is None:
            return told
        return f"{told} ({_signed(_percent(change.low), digits=1)} to {_signed(_percent(change.high), digits=1)})"

    def _with_unit(self, mean: Number) -> str:
        """The value as people read it: fractions of unit % in per cent."""
        if self.measure.unit == "%" and mean.value is not None:
            return f"{100 * mean.value:.1f} %"
        return f"{format_value(mean.value)}{f' {escape(self.measure.unit)}' if self.measure.unit else ''}"


def _reasons(row: ContestRow) -> str:
    """Why some of a row was not judged, and how often, in brackets; nothing where no reason is known."""
    why = ", ".join(f"{reason}: {count}" for reason, count in row.reasons.items())
    return f" ({html_of(why)})" if why else ""


def _tick_step(reach: float) -> float:
    """The largest of 1, 2, 5, 10 … of which two fit on a side."""
    power = 10.0 ** math.floor(math.log10(reach / 2))
    return max(factor * power for factor in (1, 2, 5) if 2 * factor * power <= reach)


def _signed(percent: float, *, digits: int | None = None) -> str:
    """With its sign, as short as it is exact or with so many decimals; zero has none."""
    if digits is None:
        return f"{percent:+g}".replace("-", "−") if percent else "0"
    return f"{percent:+.{digits}f}".replace("-", "−")


def _percent(share: float | None) -> float:
    """Of a number that is there."""
    assert share is not None
    return round(100.0 * share, 4)


def _length(change: Number, *, to: float | None) -> float:
    """Of the bar to one end, in per cent; nothing without an interval."""
    if to is None or change.value is None:
        return 0.0
    return round(100.0 * abs(to - change.value), 4)
