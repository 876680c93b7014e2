"""Tab "About": what this is, what the embedded model can and cannot do, how to read the rewards."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.service import PageService, Vocabulary
from demo.text import ABOUT, ABOUT_MODEL_MEASURED, GUARDS, PAPER_URL, TERMS
from demo.viewers.stage import file_url


def build_about(service: PageService, *, assets: Path) -> None:
    """Build the tab's content from the prose, the manifest of the weights, and the vocabulary."""
    figure = _figure(assets / "figure.svg")
    parts = [
        '<div class="about"><article>',
        ABOUT["method"].format(paper=PAPER_URL),
        figure,
        ABOUT["rewards"],
        _term_list(),
        ABOUT["api"],
        ABOUT["credits"].format(paper=PAPER_URL),
        "</article><aside>",
        ABOUT["embedded"],
        "<h3>Its vocabulary</h3>",
        _vocabulary(service.vocabulary()),
        _measured(assets / "MANIFEST.json"),
        "</aside></div>",
    ]
    gr.HTML("".join(parts), apply_default_css=False)


def about_figures(assets: Path) -> tuple[Path, ...]:
    """Files that the tab shows and the server must therefore serve."""
    figure = assets / "figure.svg"
    return (figure,) if figure.exists() else ()


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


def _measured(manifest: Path) -> str:
    """Held-out numbers of the shipped weights, as their manifest states them; nothing where it states none."""
    if not manifest.exists():
        return ""
    rows = _numbers(json.loads(manifest.read_text(encoding="utf-8")))
    if not rows:
        return ""
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="num">{value:.4g}</td></tr>' for name, value in rows
    )
    head = '<thead><tr><th scope="col">Measured on held-out clips</th><th></th></tr></thead>'
    return f"<p>{ABOUT_MODEL_MEASURED}</p><table>{head}<tbody>{cells}</tbody></table>"


def _numbers(manifest: dict[str, Any]) -> list[tuple[str, float]]:
    """(part · metric, value) for every number under a ``metrics`` or ``held_out`` object of the manifest."""
    found: list[tuple[str, float]] = []

    def visit(node: Any, path: tuple[str, ...], *, is_metrics: bool) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                inside = is_metrics or key in {"metrics", "held_out"}
                visit(child, path if key in {"metrics", "held_out"} else (*path, str(key)), is_metrics=inside)
        elif is_metrics and isinstance(node, int | float) and not isinstance(node, bool):
            found.append((" · ".join(part.replace("_", " ") for part in path), float(node)))

    visit(manifest, (), is_metrics=False)
    return found
