"""Recorded results as figures: a section a result, a plotly panel a question, and what made them as a caption.

A section is HTML that holds each panel's figure as data; ``evidence.js`` draws it, ``evidence.css`` paints it. About
shows the sections, and ``demo.pictures`` photographs the same ones, so page and README can never differ.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from demo.evidence import Source, UnreadableResult, read_contest, read_cost, read_robustness
from demo.evidence_text import (
    CONTEST,
    COST,
    EVIDENCE_INTRO,
    EVIDENCE_TITLE,
    NOT_RECORDED,
    ROBUSTNESS,
    TRANSITIONS,
    UNREADABLE,
    FigureText,
)
from demo.viewers.contest_panels import contest_content
from demo.viewers.cost_panels import cost_content
from demo.viewers.evidence_panels import Content, Group, Panel
from demo.viewers.robustness_panels import robustness_content
from demo.viewers.stage import file_url, plotly_script, read_scripts

_HERE = Path(__file__).parent
FIGURES = (CONTEST, ROBUSTNESS, COST, TRANSITIONS)
"""In the order of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One result: its words, and its content where it has been recorded."""

    text: FigureText
    source: Source | None = None
    content: Content | None = None
    is_unreadable: bool = False


def read_section(text: FigureText, *, results: Path) -> Section:
    """The section of a result file, or one that says how to make it."""
    path = results / f"{text.name}.json"
    try:
        if text in {CONTEST, TRANSITIONS}:
            contest = read_contest(path)
            return Section(text=text) if contest is None else _section(text, contest.source, contest_content(contest))
        if text == ROBUSTNESS:
            robustness = read_robustness(path)
            if robustness is not None:
                return _section(text, robustness.source, robustness_content(robustness))
            return Section(text=text)
        cost = read_cost(path)
        return Section(text=text) if cost is None else _section(text, cost.source, cost_content(cost))
    except UnreadableResult:
        return Section(text=text, is_unreadable=True)


def evidence_html(sections: Sequence[Section], *, is_picture: bool = False) -> str:
    """All sections; ``is_picture`` leaves out what only a page can do."""
    head = "" if is_picture else f"<h2>{escape(EVIDENCE_TITLE)}</h2><p>{EVIDENCE_INTRO}</p>"
    return f'<div class="evidence">{head}{"".join(_section_html(one, is_picture=is_picture) for one in sections)}</div>'


def evidence_script(plotly: str | None = None, *, at_once: bool = False) -> str:
    """What draws the figures of ``evidence_html``; ``at_once`` does not wait until they are seen.

    ``plotly`` is the address of its script, the page's own if None.
    """
    fixed = {"plotly": file_url(plotly_script()) if plotly is None else plotly, "at_once": at_once}
    return f"const fixed = {json.dumps(fixed)};\n{read_scripts(_HERE, ('dom.js', 'evidence.js'))}"


def result_files(results: Path) -> tuple[Path, ...]:
    """Files that the sections link to and the server must therefore serve."""
    return tuple(path for text in FIGURES if (path := results / f"{text.name}.json").is_file())


def _section(text: FigureText, source: Source, content: Content) -> Section:
    return Section(text=text, source=source, content=content)


def _section_html(section: Section, *, is_picture: bool) -> str:
    text = section.text
    if section.source is None or section.content is None:
        why = UNREADABLE if section.is_unreadable else NOT_RECORDED
        return (
            f'<section class="result missing" data-result="{text.name}"><h3>{escape(text.title)}</h3>'
            f"<p>{escape(why)}</p><pre><code>{escape(text.command)}</code></pre></section>"
        )
    content = section.content
    shown = next(iter(content.choices), None)
    groups = "".join(_group_html(group, shown=shown) for group in content.groups)
    notes = "".join(f"<li>{note}</li>" for note in content.notes)
    return (
        f'<section class="result" data-result="{text.name}"><h3>{escape(text.title)}</h3><p>{text.lead}</p>'
        f"{'' if is_picture else _choices(content)}{content.key}"
        f"{f'<ul>{notes}</ul>' if notes else ''}{groups}{_caption(section.source, is_picture=is_picture)}</section>"
    )


def _choices(content: Content) -> str:
    """Buttons that choose among the clips, where there is a choice."""
    if len(content.choices) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" data-clips="{escape(name)}" aria-pressed="{str(index == 0).lower()}">{escape(label)}'
        "</button>"
        for index, (name, label) in enumerate(content.choices.items())
    )
    return f'<div class="result-choices" role="group" aria-label="Which prompts">{buttons}</div>'


def _group_html(group: Group, *, shown: str | None) -> str:
    """The heading and the panels; ``shown`` is what is chosen at first."""
    heading = f"<h4>{escape(group.title)}</h4>" if group.title else ""
    panels = "".join(_panel_html(panel, shown=shown) for panel in group.panels)
    return f'{heading}<div class="result-panels{" wide" if group.is_wide else ""}">{panels}</div>'


def _panel_html(panel: Panel, *, shown: str | None) -> str:
    """Title and facts as text, the figure as data with its height kept free; the alternative text tells its numbers."""
    facts = "".join(
        f"<small>{fact.text}</small>"
        if fact.clips is None
        else f'<small data-of="{escape(fact.clips)}"{"" if fact.clips == shown else " hidden"}>{fact.text}</small>'
        for fact in panel.facts
    )
    return (
        f'<article class="result-panel"><h5>{panel.title}</h5>{facts}'
        f'<div class="result-plot" role="img" aria-label="{escape(panel.spoken)}" '
        f'style="height:{panel.height}px" data-figure="{escape(_json(panel.figure))}"></div></article>'
    )


def _caption(source: Source, *, is_picture: bool) -> str:
    """The command, and where, when and how long it ran."""
    facts = [source.date[:10], source.device, duration(source.seconds), f"torch {source.versions.get('torch', '?')}"]
    link = f' · <a href="{file_url(source.path)}" download="{source.path.name}">{source.path.name}</a>'
    told = " · ".join(escape(fact) for fact in facts)
    return f'<p class="result-source"><code>{escape(source.command)}</code><br>{told}{"" if is_picture else link}</p>'


def duration(seconds: float) -> str:
    """In the largest unit that leaves one or two digits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _json(figure: dict[str, Any]) -> str:
    return json.dumps(figure, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
