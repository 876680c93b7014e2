"""Tab "Gallery": the shipped pairs and example runs as cards."""

from html import escape
from pathlib import Path

import gradio as gr

from demo.compare_service import CompareService
from demo.pair_results import PairResult
from demo.results import VIDEO, RunResult
from demo.service import PageError, PageService
from demo.text import GALLERY_EMPTY, GALLERY_INTRO, GALLERY_PAIRS, GALLERY_PAIRS_INTRO
from demo.viewers.compare_stage import format_change
from demo.viewers.curves import shared_rewards
from demo.viewers.stage import file_url, read_scripts
from demo.viewers.table import describe, format_value


def build_gallery(service: PageService, comparer: CompareService) -> gr.HTML | None:
    """Build the tab's content: cards that fire ``open`` with the name of the run that was clicked, and ``open_pair``.

    None without examples, so that nobody wires a click to nothing.
    """
    runs, pairs = _readable_examples(service), _readable_pairs(comparer)
    if not runs and not pairs:
        gr.HTML(f'<div class="stage"><div class="empty"><h2>No examples</h2><p>{escape(GALLERY_EMPTY)}</p></div></div>')
        return None
    sections = []
    if pairs:
        cards = "".join(_pair_card(pair) for pair in pairs)
        sections.append(
            f'<h2>{escape(GALLERY_PAIRS)}</h2><p class="lead">{escape(GALLERY_PAIRS_INTRO)}</p>'
            f'<div class="gallery pairs">{cards}</div>'
        )
    if runs:
        head = "<h2>Single runs</h2>" if pairs else ""
        cards = "".join(_card(run) for run in runs)
        sections.append(f'{head}<p class="lead">{escape(GALLERY_INTRO)}</p><div class="gallery">{cards}</div>')
    return gr.HTML(
        value=None,
        html_template=_without_template_code(f'<div class="galleries">{"".join(sections)}</div>'),
        js_on_load=read_scripts(Path(__file__).parent, ("gallery.js",)),
        apply_default_css=False,
        elem_id="gallery",
    )


def _readable_examples(service: PageService) -> list[RunResult]:
    """Examples whose files are whole; a broken one must not take the page down."""
    runs = []
    for run_id in service.store.example_ids():
        try:
            runs.append(service.open_run(run_id))
        except PageError:
            continue
    return runs


def _readable_pairs(comparer: CompareService) -> list[PairResult]:
    """Shipped pairs whose files are whole."""
    pairs = []
    for pair_id in comparer.service.store.pair_ids():
        try:
            pairs.append(comparer.open_pair(pair_id))
        except PageError:
            continue
    return pairs


def _pair_card(pair: PairResult) -> str:
    """One pair: the base on the left half of the picture, the tuned video on the right, and what changed."""
    changes = "".join(
        f"<div><dt>{escape(describe(base.name).brief)}</dt><dd>{format_change(base.value, tuned.value)}</dd></div>"
        for base, tuned in shared_rewards(pair)
    )
    videos = "".join(_video(side.run) for side in (pair.base, pair.tuned))
    return (
        f'<button type="button" data-pair="{escape(pair.pair_id)}"><span class="sr">Compare: </span>'
        f'<div class="thumb halves">{videos}<span class="badge">{escape(pair.base.label)}</span>'
        f'<span class="badge">{escape(pair.tuned.label)}</span></div>'
        f"<p>{escape(pair.prompt)}</p><dl>{changes}</dl></button>"
    )


def _video(run: RunResult) -> str:
    """A run's video, at rest in its middle."""
    video = run.folder / VIDEO
    source = f"{file_url(video)}#t={run.num_frames / 2 / 8:.2f}" if video.exists() else ""
    return f'<video src="{escape(source)}" muted playsinline loop preload="metadata" tabindex="-1"></video>'


def _card(run: RunResult) -> str:
    """One example: its video, its prompt and its rewards."""
    rewards = "".join(
        f"<div><dt>{escape(describe(trace.name).brief)}</dt><dd>{format_value(trace.value)}</dd></div>"
        for trace in run.rewards
    )
    return (
        f'<button type="button" data-run="{escape(run.run_id)}"><span class="sr">Open example: </span>'
        f'<div class="thumb">{_video(run)}</div><p>{escape(run.prompt)}</p><dl>{rewards}</dl></button>'
    )


def _without_template_code(markup: str) -> str:
    """Gradio reads braces and backticks of a template as code; here they are text."""
    return markup.replace("{", "&#123;").replace("}", "&#125;").replace("`", "&#96;").replace("\\", "&#92;")
