"""Tab "Gallery": the shipped example runs as cards."""

from html import escape
from pathlib import Path

import gradio as gr

from demo.results import VIDEO, RunResult
from demo.service import PageError, PageService
from demo.text import GALLERY_EMPTY, GALLERY_INTRO
from demo.viewers.stage import file_url, read_scripts
from demo.viewers.table import describe, format_value


def build_gallery(service: PageService) -> gr.HTML | None:
    """Build the tab's content: cards that fire ``open`` with the name of the run that was clicked.

    None without examples, so that nobody wires a click to nothing.
    """
    runs = _readable_examples(service)
    if not runs:
        gr.HTML(f'<div class="stage"><div class="empty"><h2>No examples</h2><p>{escape(GALLERY_EMPTY)}</p></div></div>')
        return None
    gr.HTML(f'<p class="lead">{escape(GALLERY_INTRO)}</p>')
    return gr.HTML(
        value=None,
        html_template=f'<div class="gallery">{"".join(_card(run) for run in runs)}</div>',
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


def _card(run: RunResult) -> str:
    """One example: its video at rest in the middle, its prompt and its rewards. Braces would be template code."""
    rewards = "".join(
        f"<div><dt>{escape(describe(trace.name).brief)}</dt><dd>{format_value(trace.value)}</dd></div>"
        for trace in run.rewards
    )
    middle = run.num_frames / 2 / 8
    video = run.folder / VIDEO
    source = f"{file_url(video)}#t={middle:.2f}" if video.exists() else ""
    card = (
        f'<button type="button" data-run="{escape(run.run_id)}"><span class="sr">Open example: </span>'
        f'<div class="thumb"><video src="{escape(source)}" muted playsinline loop preload="metadata" tabindex="-1">'
        f"</video></div><p>{escape(run.prompt)}</p><dl>{rewards}</dl></button>"
    )
    return card.replace("{", "&#123;").replace("}", "&#125;").replace("`", "&#96;").replace("\\", "&#92;")
