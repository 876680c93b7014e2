"""Tab "About": what the embedded weights make, to look at and as numbers, from what ``evaluate assets`` recorded."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from demo.text import SHEET_CAPTION, WEIGHTS_MEASURED, WEIGHTS_TITLE
from demo.viewers.stage import file_url

SHEET = "clips.webp"
"""Among the assets: generated clips beside true ones."""
EVALUATION = "evaluation"
"""What the manifest calls the recorded measurement."""


def weights_html(manifest: Mapping[str, Any], *, assets: Path) -> str:
    """The sheet of clips and the table of targets; nothing where nothing was recorded."""
    parts = [_sheet(assets / SHEET), _table(manifest.get(EVALUATION))]
    content = "".join(parts)
    return f"<h2>{WEIGHTS_TITLE}</h2>{content}" if content else ""


def _sheet(path: Path) -> str:
    if not path.is_file():
        return ""
    return (
        f'<figure><img loading="lazy" src="{file_url(path)}" alt="Sixteen prompts: first, middle and last frame of the '
        f'generated clip, then of a true clip of the same caption."><figcaption>{SHEET_CAPTION}</figcaption></figure>'
    )


def _table(evaluation: object) -> str:
    """One line for every target."""
    rows = evaluation.get("rows", {}) if isinstance(evaluation, Mapping) else {}
    aimed = [row for row in rows.values() if isinstance(row, Mapping) and "target" in row]
    if not aimed or not isinstance(evaluation, Mapping):
        return ""
    body = "".join(_line(row) for row in aimed)
    told = WEIGHTS_MEASURED.format(clips=evaluation.get("clips", "?"))
    return (
        '<table><thead><tr><th scope="col"></th><th scope="col" class="num">measured</th>'
        '<th scope="col" class="num">95 % interval</th><th scope="col" class="num">target</th></tr></thead>'
        f"<tbody>{body}</tbody></table><p>{told}</p>"
    )


def _line(row: Mapping[str, Any]) -> str:
    unit = str(row.get("unit", ""))
    low, high = (_number(row.get(name), unit) for name in ("low", "high"))
    interval = "–" if "–" in {low, high} else f"{low} to {high}"
    sign = "≤" if row.get("at_most") else "≥"
    reached = {True: " ✓", False: ""}.get(bool(row.get("reached")), "")
    name = escape(f"{row.get('part', '')}: {row.get('name', '')}").replace("Φ_g", "Φ<sub>g</sub>")
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td class="num">{_number(row.get("value"), unit)}{reached}</td><td class="num">{interval}</td>'
        f'<td class="num">{sign} {_number(row.get("target"), unit)}</td></tr>'
    )


def _number(value: object, unit: str) -> str:
    """Three significant digits with the unit, shares in per cent, or a dash."""
    if not isinstance(value, int | float):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %"
    return escape(f"{value:.3g}{unit if unit in {'', '°'} else f' {unit}'}")
