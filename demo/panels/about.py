"""Tab "About": what this is, what the embedded model can and cannot do, how to read the rewards, and the evidence."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.panels.about_weights import SHEET, weights_html
from demo.service import PageService, Vocabulary
from demo.text import (
    ABOUT,
    ABOUT_GEOMETRY_MEASURED,
    ABOUT_VAE_MEASURED,
    GUARDS,
    MEASURED_GEOMETRY,
    PAPER_URL,
    TERMS,
)
from demo.viewers.evidence import FIGURES, evidence_html, evidence_script, read_section, result_files
from demo.viewers.stage import file_url

RESULTS = "results"
"""Folder of recorded results among the assets."""


def build_about(service: PageService, *, assets: Path) -> None:
    """Build the tab's content from the prose, the manifest of the weights, and the vocabulary."""
    figure = _figure(assets / "figure.svg")
    manifest = _manifest(assets / "MANIFEST.json")
    parts = _parts(manifest)
    page = [
        '<div class="about"><article>',
        ABOUT["method"].format(paper=PAPER_URL),
        figure,
        ABOUT["rewards"],
        _term_list(),
        weights_html(manifest, assets=assets),
        ABOUT["tuning"],
        ABOUT["released"],
        ABOUT["api"],
        ABOUT["credits"].format(paper=PAPER_URL),
        "</article><aside>",
        ABOUT["embedded"],
        "<h3>Its vocabulary</h3>",
        _vocabulary(service.vocabulary()),
        _measured(parts),
        _training_notes(parts),
        "</aside></div>",
    ]
    gr.HTML("".join(page), apply_default_css=False)
    sections = [read_section(text, results=assets / RESULTS) for text in FIGURES]
    gr.HTML(evidence_html(sections), js_on_load=evidence_script(), apply_default_css=False, elem_id="evidence")


def about_figures(assets: Path) -> tuple[Path, ...]:
    """Files that the tab shows and the server must therefore serve."""
    pictures = (assets / "figure.svg", assets / SHEET)
    return (*(picture for picture in pictures if picture.exists()), *result_files(assets / RESULTS))


def _figure(path: Path) -> str:
    """The method's figure, where it has been drawn."""
    if not path.exists():
        return ""
    return (
        f'<figure><img src="{file_url(path)}" alt="Figure: (a) the latent geometry model reads cameras, depth, points '
        'and scene flow from video latents; (b) its rewards train the video model without decoding video.">'
        "<figcaption>(a) Φ<sub>g</sub> learns to read geometry from latents. (b) Its rewards tune the video model; no "
        "video is decoded.</figcaption></figure>"
    )


def _term_list() -> str:
    """Rewards and guards with their explanations."""
    rows = [f"<dt>{escape(text.label)}</dt><dd>{escape(text.tip)}</dd>" for text in (*TERMS.values(), *GUARDS.values())]
    return f'<dl class="words">{"".join(rows)}</dl>'


def _vocabulary(words: Vocabulary) -> str:
    """Every word of the embedded world by kind."""
    kinds = {
        "Colours": tuple(words.colours),
        "Shapes": words.shapes,
        "Floors": (*words.floor_colours, *words.floor_patterns),
        "Camera": words.camera_moves,
        "Motion": words.object_motions,
    }
    rows = [f"<dt>{kind}</dt><dd>{escape(', '.join(names))}</dd>" for kind, names in kinds.items()]
    return f'<dl class="words">{"".join(rows)}</dl>'


def _manifest(path: Path) -> dict[str, Any]:
    """How the weights were made and what they are worth; nothing where there is no manifest to read."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _parts(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the manifest says of each part of the weights."""
    parts = manifest.get("parts", {})
    return {name: part for name, part in parts.items() if isinstance(part, dict)}


def _measured(parts: dict[str, dict[str, Any]]) -> str:
    """Held-out numbers of both geometry models side by side, and of the video autoencoder."""
    teacher, latent = (parts.get(name, {}).get("held_out", {}) for name in ("geometry", "lgm"))
    rows = [
        (label, _number(teacher.get(key)), _number(latent.get(key)))
        for key, label in MEASURED_GEOMETRY.items()
        if key in teacher or key in latent
    ]
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td class="num">{left}</td><td class="num">{right}</td></tr>'
        for label, left, right in rows
    )
    psnr = parts.get("vae", {}).get("held_out", {}).get("psnr")
    autoencoder = "" if psnr is None else f"<p>{ABOUT_VAE_MEASURED.format(psnr=_number(psnr))}</p>"
    return (
        f'<h3>Measured on held-out clips</h3><table><thead><tr><th scope="col"></th><th scope="col" class="num">Φ</th>'
        f'<th scope="col" class="num">Φ<sub>g</sub></th></tr></thead><tbody>{body}</tbody></table>'
        f"<p>{ABOUT_GEOMETRY_MEASURED}</p>{autoencoder}"
    )


def _training_notes(parts: dict[str, dict[str, Any]]) -> str:
    """How each part was made, in the manifest's own words."""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(part.get('steps', '?')))} steps. {escape(str(part.get('notes', '')))}"
        f"<br><code>{escape(str(part.get('command', '')))}</code></dd>"
        for name, part in parts.items()
    )
    return (
        f'<details><summary>How these weights were made</summary><dl class="made">{rows}</dl></details>' if rows else ""
    )


def _number(value: object) -> str:
    """Three significant digits, or a dash."""
    return f"{value:.3g}" if isinstance(value, int | float) else "–"
