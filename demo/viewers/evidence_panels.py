"""What a section of evidence is made of, and the layout that its plotly figures share.

Figures are plain dictionaries in plotly's own form (a test holds them to plotly's schema): plotly's classes would cost
the page a second at its start. Colours are set for a figure on its own; in the page ``evidence.css`` repaints them by
the classes that plotly makes of a trace's ``uid``, so that they follow the theme.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

OURS, OTHERS, FAINT = "#e8441f", "#4b515c", "#9aa1ad"
"""The figure's own colours: the method, everything else, and lines to read it by."""
FONT = {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 12, "color": "#5f6672"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A line under a panel's title, trusted HTML; ``clips`` names the choice that it belongs to, None for every one."""

    text: str
    clips: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One plotly figure; ``title`` is trusted HTML, ``spoken`` is what a screen reader says."""

    title: str
    figure: dict[str, Any]
    spoken: str
    facts: Sequence[Fact] = ()

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.figure["layout"]["height"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]
    is_wide: bool = False
    """Two panels a row at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything between a section's lead and its caption; ``key`` and ``notes`` are trusted HTML.

    ``choices`` (name → label): traces (by their ``meta``) and facts of others than the first are hidden until chosen.
    """

    groups: Sequence[Group]
    notes: Sequence[str] = ()
    key: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)


def layout(*, height: int, margin: Mapping[str, int], **more: Any) -> dict[str, Any]:
    """Transparent, without a legend or tools, at rest under the pointer."""
    return {
        "height": height,
        "margin": dict(margin),
        "font": FONT,
        "showlegend": False,
        "dragmode": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        **more,
    }


def axis(**more: Any) -> dict[str, Any]:
    """An axis that cannot be dragged, with a quiet grid."""
    return {"fixedrange": True, "zeroline": False, "gridcolor": FAINT, "griddash": "dot", **more}


def html_of(text: str) -> str:
    """Text of a report for the page: escaped, Φ_g as it is written."""
    return escape(text).replace("Φ_g", "Φ<sub>g</sub>")


def key_html(entries: Mapping[str, str]) -> str:
    """A legend: class of the swatch → trusted HTML."""
    items = "".join(f'<span><i class="{name}"></i><b>{label}</b></span>' for name, label in entries.items())
    return f'<p class="result-key">{items}</p>'
