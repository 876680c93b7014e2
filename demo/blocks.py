"""Builds the page and says how it is served."""

import threading
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.panels.about import about_figures, build_about
from demo.panels.endpoints import build_endpoints
from demo.panels.gallery import build_gallery
from demo.panels.generate import GeneratePanel, build_generate, show
from demo.panels.progress import error_html
from demo.run_store import RunStore
from demo.service import PageError, PageService
from demo.text import TAGLINE, TITLE
from demo.theme import build_theme
from demo.viewers.stage import player_page, plotly_script, read_scripts

_HERE = Path(__file__).parent
LARGEST_UPLOAD = "64mb"
_CACHE_SECONDS = 3600


class Page(gr.Blocks):
    """The page with its theme and limits, however it is launched."""

    def __init__(self, service: PageService, *, assets: Path) -> None:
        super().__init__(
            title=TITLE,
            fill_width=True,
            analytics_enabled=False,
            delete_cache=(_CACHE_SECONDS, _CACHE_SECONDS),
        )
        self.service = service
        self._assets = assets

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """``gr.Blocks.launch`` with the page's own defaults.

        Only the runs, the examples, the figure, viser's client and plotly's script are served as files.
        """
        store = self.service.store
        (store.root / "page").mkdir(parents=True, exist_ok=True)
        served = [store.root, store.examples, player_page(), plotly_script(), *about_figures(self._assets)]
        gr.set_static_paths([path for path in served if path.exists()])
        defaults: dict[str, Any] = {
            "theme": build_theme(),
            "css_paths": [_HERE / "static" / "page.css", _HERE / "viewers" / "stage.css"],
            "max_file_size": LARGEST_UPLOAD,
            "ssr_mode": False,
            "footer_links": ["api", "settings"],
            "run_history": False,
        }
        threading.Thread(target=self._prepare_examples, name="prepare-examples", daemon=True).start()
        return super().launch(*arguments, **(defaults | options))

    def _prepare_examples(self) -> None:
        """Make the examples' recordings and strips, so that each opens at once."""
        self.service.store.sweep()
        for run_id in self.service.store.example_ids():
            try:
                show(self.service, self.service.open_run(run_id))
            except (PageError, OSError):
                continue


def build_page(service: PageService, *, assets: Path) -> Page:
    """The whole page over a service."""
    defaults = service.sampling_defaults()
    with Page(service, assets=assets) as page:
        _masthead(service)
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate & inspect", id="generate"):
                panel = build_generate(service, defaults=defaults)
            with gr.Tab("Gallery", id="gallery"):
                gallery = build_gallery(service)
            with gr.Tab("About", id="about"):
                build_about(service, assets=assets)
        build_endpoints(service, defaults=defaults)
        _wire_opening(page, service, panel=panel, tabs=tabs, gallery=gallery)
    page.queue(max_size=20)
    return page


def make_service(*, preset: str, runs: Path, assets: Path) -> PageService:
    """The service over the real models."""
    return PageService(preset=preset, store=RunStore(root=runs.resolve(), examples=(assets / "examples").resolve()))


def _masthead(service: PageService) -> None:
    """Name, what it is, which model, light or dark."""
    gr.HTML(
        f'<header class="masthead"><h1>{escape(TITLE)}</h1><p>{escape(TAGLINE)}</p>'
        f'<span class="model">{escape(service.describe())}</span>'
        '<button type="button" title="Light or dark" aria-label="Light or dark"><svg viewBox="0 0 16 16">'
        '<path d="M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.5v11a5.500 5.500 0 0 1 0-11z"/></svg></button></header>',
        js_on_load=read_scripts(_HERE / "static", ("masthead.js",)),
        apply_default_css=False,
    )


def _wire_opening(
    page: Page, service: PageService, *, panel: GeneratePanel, tabs: gr.Tabs, gallery: gr.HTML | None
) -> None:
    """Opening a run from a link or the gallery, or the first example on an empty visit."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}

    def on_load(request: gr.Request) -> list[Any]:
        return opening(service, dict(request.query_params))

    def on_card(event: gr.EventData) -> list[Any]:
        return [*opening(service, {"run": str(event.run)}), gr.Tabs(selected="generate")]

    outputs = [panel.notice, panel.stage, panel.prompt, panel.seed]
    page.load(on_load, None, outputs, **quiet)
    if gallery is not None:
        gallery.open(on_card, None, [*outputs, tabs], **quiet)


def opening(service: PageService, query: Mapping[str, str]) -> list[Any]:
    """Notice, stage, prompt and seed for an address's ``run``, ``frame``, ``prompt`` and ``seed``."""
    prompt = query.get("prompt") or gr.skip()
    seed = int(query["seed"]) if query.get("seed", "").isdecimal() else gr.skip()
    examples = service.store.example_ids()
    run_id = query.get("run") or ("" if query.get("prompt") else next(iter(examples), ""))
    if not run_id:
        return ["", gr.skip(), prompt, seed]
    frame = int(query["frame"]) if query.get("frame", "").isdecimal() else 0
    try:
        run = service.open_run(run_id)
        value = show(service, run, frame=frame)
    except PageError as error:
        return [error_html(str(error)), gr.skip(), prompt, seed]
    is_asked = "run" in query
    return [
        "",
        value,
        run.prompt if is_asked and run.prompt else prompt,
        run.seed if is_asked and run.seed is not None else seed,
    ]
