"""Builds the page and says how it is served."""

import logging
import threading
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from demo.compare_service import CompareService
from demo.environment import Environment, read_environment, runs_root
from demo.http_guard import HttpGuard
from demo.job_queue import PageError
from demo.panels.about import about_figures, build_about
from demo.panels.compare import ComparePanel, build_compare, model_choices, wire_compare_opening
from demo.panels.compare_endpoints import build_compare_endpoints
from demo.panels.endpoints import build_endpoints
from demo.panels.finetune import FinetunePanel, build_finetune, estimate_html
from demo.panels.finetune_endpoints import build_finetune_endpoints
from demo.panels.gallery import build_gallery
from demo.panels.generate import GeneratePanel, build_generate, show
from demo.panels.progress import error_html
from demo.run_store import RunStore
from demo.service import PageService
from demo.text import TAGLINE, TITLE
from demo.theme import build_theme
from demo.training_service import FINETUNES, TrainingService
from demo.viewers.stage import player_page, plotly_script, read_scripts
from demo.visitors import Visitor, current_visitor, owner

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
STYLES = ("static/page.css", "viewers/stage.css", "viewers/training.css", "viewers/compare.css", "viewers/evidence.css")
_CACHE_SECONDS = 3600
_SWEEP_SECONDS = 600.0


class Page(gr.Blocks):
    """The page with its theme and limits, however it is launched."""

    def __init__(self, service: PageService, *, training: TrainingService, assets: Path) -> None:
        super().__init__(
            title=TITLE,
            fill_width=True,
            analytics_enabled=False,
            delete_cache=(_CACHE_SECONDS, _CACHE_SECONDS),
        )
        self.service = service
        self.training = training
        self._assets = assets

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """``gr.Blocks.launch`` with the page's own defaults.

        Only the runs, the examples, the figure, viser's client and plotly's script are served as files.
        """
        store, environment = self.service.store, self.service.environment
        (store.root / "page").mkdir(parents=True, exist_ok=True)
        served = [store.root, store.examples, player_page(), plotly_script(), *about_figures(self._assets)]
        gr.set_static_paths([path for path in served if path.exists()])
        defaults: dict[str, Any] = {
            "theme": build_theme(),
            "css_paths": [_HERE / name for name in STYLES],
            "max_file_size": environment.limits.upload_bytes,
            "app_kwargs": {"middleware": [self._guard()]},
            "server_name": "0.0.0.0" if environment.place != "own machine" else None,
            "server_port": environment.port,
            "ssr_mode": False,
            "footer_links": ["api", "settings"],
            "run_history": False,
        }
        self.training.wake()
        threading.Thread(target=self._prepare_examples, name="prepare-examples", daemon=True).start()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        given = {name: value for name, value in options.items() if value is not None}
        return super().launch(*arguments, **(defaults | given))

    def _guard(self) -> Middleware:
        """What stands before Gradio."""
        environment = self.service.environment
        return Middleware(
            HttpGuard,
            limits=environment.limits,
            finetunes=self.service.store.root / FINETUNES,
            is_public=environment.is_public,
        )

    def _sweep(self) -> None:
        """Delete what is too old or too much, now and every ten minutes as long as the page is there."""
        while True:
            try:
                self.service.store.sweep()
                self.training.sweep()
            except OSError:
                # A full or vanished disk: the next round may find it better, and visitors are told when they need it.
                log.exception("Sweeping failed")
            time.sleep(_SWEEP_SECONDS)

    def _prepare_examples(self) -> None:
        """Make the examples' recordings and strips, so that each opens at once."""
        for run_id in self.service.store.shipped_ids():
            try:
                show(self.service, self.service.open_run(run_id))
            except (PageError, OSError):
                continue


def build_page(service: PageService, *, assets: Path, training: TrainingService | None = None) -> Page:
    """The whole page over its services."""
    defaults = service.sampling_defaults()
    training = training or TrainingService(
        store=service.store,
        preset=service.preset,
        environment=service.environment,
        visitor=visitors(service.environment),
    )
    comparer = CompareService(service, adapters=assets / "adapters", training=training)
    with Page(service, training=training, assets=assets) as page:
        _masthead(service)
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate & inspect", id="generate"):
                panel = build_generate(service, defaults=defaults)
            with gr.Tab("Compare", id="compare") as compare_tab:
                compare = build_compare(comparer, defaults=defaults, tab=compare_tab)
            with gr.Tab("Fine-tune", id="finetune"):
                finetune = build_finetune(training)
            with gr.Tab("Gallery", id="gallery"):
                gallery = build_gallery(service, comparer)
            with gr.Tab("About", id="about"):
                build_about(service, assets=assets)
        build_endpoints(service, defaults=defaults)
        build_finetune_endpoints(training)
        build_compare_endpoints(comparer, defaults=defaults)
        _wire_opening(page, service, panel=panel, tabs=tabs, gallery=gallery)
        wire_compare_opening(page, comparer, compare, tabs=tabs, gallery=gallery)
        _wire_finetune(page, finetune, tabs=tabs)
        _wire_use_adapter(finetune, comparer, compare, tabs=tabs)
    page.queue(max_size=20)
    return page


def make_service(*, preset: str, assets: Path, runs: Path | None = None) -> PageService:
    """The service over the real models, for the place where the page runs. Raises ``SettingError``."""
    environment = read_environment()
    limits = environment.limits
    store = RunStore(
        root=runs_root(environment, asked=runs).resolve(),
        examples=(assets / "examples").resolve(),
        max_age=limits.run_seconds,
        max_bytes=limits.run_bytes,
    )
    return PageService(preset=preset, store=store, environment=environment, visitor=visitors(environment))


def visitors(environment: Environment) -> Visitor:
    """How the page tells who is asking."""
    return current_visitor if environment.is_public else owner


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


def _wire_finetune(page: Page, panel: FinetunePanel, *, tabs: gr.Tabs) -> None:
    """An address that names a fine-tune opens its tab, so that a reload comes back to it; the estimate is of now."""

    def on_load(preset: str, iterations: float, groups: float, group_size: float, request: gr.Request) -> list[Any]:
        tab = gr.Tabs(selected="finetune") if "job" in dict(request.query_params) else gr.skip()
        videos = groups * group_size
        return [tab, estimate_html(page.training, preset=preset, iterations=iterations, videos=videos)]

    page.load(
        on_load,
        list(panel.sizes),
        [tabs, panel.estimate],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )


def _wire_use_adapter(panel: FinetunePanel, comparer: CompareService, compare: ComparePanel, *, tabs: gr.Tabs) -> None:
    """The board's "Use this adapter" chooses it in Compare and goes there."""

    def on_use(event: gr.EventData) -> list[Any]:
        choices = model_choices(comparer, also=str(event.job))
        return [gr.Dropdown(choices=choices, value=str(event.job)), gr.Tabs(selected="compare")]

    panel.board.use_adapter(
        on_use, None, [compare.adapter, tabs], show_progress="hidden", api_visibility="private", queue=False
    )


def opening(service: PageService, query: Mapping[str, str]) -> list[Any]:
    """Notice, stage, prompt and seed for an address's ``run``, ``frame``, ``prompt`` and ``seed``."""
    prompt = query.get("prompt") or gr.skip()
    seed = int(query["seed"]) if query.get("seed", "").isdecimal() else gr.skip()
    examples = service.store.example_ids()
    is_elsewhere = bool(query.get("prompt") or query.get("pair"))
    run_id = query.get("run") or ("" if is_elsewhere else next(iter(examples), ""))
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
