"""Tab "Compare": one prompt on two sides on one clock, or many prompts with the paired difference of every reward."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.compare_service import (
    BASE_MODEL,
    LARGEST_ADAPTER_BYTES,
    UPLOAD,
    CompareInput,
    CompareService,
    ManyReport,
    SideInput,
)
from demo.job_queue import MOST_AT_ONCE
from demo.pair_results import COMPARISON, ComparisonResult, PairResult
from demo.panels.generate import FIRST_SCENE, ONE_JOB, page_files
from demo.panels.progress import error_html, progress_html
from demo.service import PageError, SamplingDefaults, StepReport
from demo.text import COMPARE_HINT, MANY_PROMPTS_HINT, PROMPT_PLACEHOLDER, UPLOAD_HINT
from demo.viewers.compare_stage import build_compare_stage, pair_payload
from demo.viewers.distribution import comparison_html, empty_comparison_html
from demo.viewers.stage import file_url, read_scripts

ONE, MANY = "One prompt", "Many prompts"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}


@dataclass(frozen=True, kw_only=True)
class ComparePanel:
    """The widgets that other parts of the page talk to. ``adapter`` is the tuned side's model, by key."""

    tab: gr.Tab
    adapter: gr.Dropdown
    other: gr.Dropdown
    prompt: gr.Textbox
    seed: gr.Number
    notice: gr.HTML
    stage: gr.HTML


@dataclass(frozen=True, kw_only=True)
class _Controls:
    """Widgets of the left column."""

    mode: gr.Radio
    prompt: gr.Textbox
    count: gr.Slider
    seed: gr.Number
    other: gr.Dropdown
    other_guided: gr.Checkbox
    adapter: gr.Dropdown
    adapter_guided: gr.Checkbox
    upload: gr.File
    steps: gr.Slider
    guidance: gr.Slider
    run: gr.Button
    cancel: gr.Button

    def asked(self) -> list[Any]:
        """The inputs of a job, in the order of ``_read``."""
        return [
            self.prompt,
            self.seed,
            self.other,
            self.other_guided,
            self.adapter,
            self.adapter_guided,
            self.upload,
            self.steps,
            self.guidance,
        ]


@dataclass(frozen=True, kw_only=True)
class _View:
    """What the right column shows: progress or an error, a pair, many prompts."""

    notice: gr.HTML
    stage: gr.HTML
    many: gr.HTML
    shown: gr.State
    """The comparison whose dots can be clicked, by id."""


def build_compare(service: CompareService, *, defaults: SamplingDefaults, tab: gr.Tab) -> ComparePanel:
    """Build the tab's content and wire it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=0, min_width=320, elem_id="compare-controls", elem_classes="controls"):
            controls = _build_controls(service, defaults=defaults)
        with gr.Column(scale=1, min_width=360):
            view = _View(
                notice=gr.HTML("", elem_id="compare-notice", apply_default_css=False),
                stage=build_compare_stage(),
                many=gr.HTML(
                    empty_comparison_html(),
                    visible="hidden",
                    elem_id="comparison",
                    apply_default_css=False,
                    js_on_load=read_scripts(Path(__file__).parent, ("compare.js",)),
                ),
                shown=gr.State(""),
            )
    _wire_choices(service, controls, view=view, tab=tab)
    _wire_jobs(service, controls, view=view)
    return ComparePanel(
        tab=tab,
        adapter=controls.adapter,
        other=controls.other,
        prompt=controls.prompt,
        seed=controls.seed,
        notice=view.notice,
        stage=view.stage,
    )


def _build_controls(service: CompareService, *, defaults: SamplingDefaults) -> _Controls:
    """The left column."""
    choices = model_choices(service)
    mode = gr.Radio([ONE, MANY], value=ONE, show_label=False, elem_id="compare-mode")
    gr.HTML(f'<p class="hint">{escape(COMPARE_HINT)}</p>', apply_default_css=False)
    first_prompt, first_seed = _first_form(service)
    prompt = gr.Textbox(
        first_prompt,
        label="Prompt",
        lines=3,
        max_lines=6,
        placeholder=PROMPT_PLACEHOLDER,
        elem_id="compare-prompt",
    )
    count = gr.Slider(
        2,
        service.service.limits.compared_prompts,
        16,
        step=1,
        label="Prompts",
        info=MANY_PROMPTS_HINT,
        visible=False,
        elem_id="compare-count",
    )
    seed = gr.Number(first_seed, label="Seed", precision=0, minimum=0, elem_id="compare-seed")
    other = gr.Dropdown(choices, value=BASE_MODEL, label="Base", elem_id="compare-base")
    other_guided = _guidance_switch(is_on=False)
    adapter = gr.Dropdown(choices, value=first_adapter(choices), label="Against", elem_id="compare-adapter")
    # Without any adapter there still is something to compare at a press.
    adapter_guided = _guidance_switch(is_on=adapter.value == BASE_MODEL)
    with gr.Column(visible=adapter.value == UPLOAD, elem_id="compare-upload-box") as box:
        gr.HTML(
            f'<p class="hint">{escape(UPLOAD_HINT.format(megabytes=LARGEST_ADAPTER_BYTES // 2**20))}</p>',
            apply_default_css=False,
        )
        upload = gr.File(show_label=False, height=110, elem_id="compare-upload", elem_classes="drop")
    with gr.Accordion("Sampling", open=False):
        steps = gr.Slider(1, 50, defaults.steps, step=1, label="Steps", info="More steps draw more carefully")
        guidance = gr.Slider(1.0, 12.0, defaults.guidance, step=0.5, label="Guidance", info="The same on both sides")
    run = gr.Button("Compare", variant="primary", elem_id="compare")
    cancel = gr.Button("Cancel", visible=False, elem_id="compare-cancel")
    needs_upload = [other, adapter]
    gr.on(
        [widget.change for widget in needs_upload],
        lambda *keys: gr.Column(visible=UPLOAD in keys),
        needs_upload,
        box,
        **_QUIET,
    )
    # The guidance was on for want of an adapter; whoever wants both ticks it again.
    adapter.input(
        lambda key: gr.Checkbox(value=False) if key != BASE_MODEL else gr.skip(), adapter, adapter_guided, **_QUIET
    )
    return _Controls(
        mode=mode,
        prompt=prompt,
        count=count,
        seed=seed,
        other=other,
        other_guided=other_guided,
        adapter=adapter,
        adapter_guided=adapter_guided,
        upload=upload,
        steps=steps,
        guidance=guidance,
        run=run,
        cancel=cancel,
    )


def _guidance_switch(*, is_on: bool) -> gr.Checkbox:
    """Whether a side's rewards guide its sampling."""
    return gr.Checkbox(label="with reward guidance", value=is_on, container=False, elem_classes="guided")


def model_choices(service: CompareService, *, also: str = BASE_MODEL) -> list[tuple[str, str]]:
    """(label, key) of every model and of one that may not be on the visitor's list, and their own file last."""
    listed = [(choice.label, choice.key) for choice in service.models()]
    if also not in [key for _, key in listed]:
        with suppress(PageError):
            listed.append((service.find_model(also).label, also))
    return [*listed, ("Your own LoRA…", UPLOAD)]


def first_adapter(choices: list[tuple[str, str]]) -> str:
    """The first model that is not the base; the base where there is no other yet."""
    return next((key for _, key in choices if key not in {BASE_MODEL, UPLOAD}), BASE_MODEL)


def _wire_choices(service: CompareService, controls: _Controls, *, view: _View, tab: gr.Tab) -> None:
    """Mode → what is seen; the lists of models are as fresh as the last look at the tab."""

    def on_mode(mode: str) -> list[Any]:
        is_many = mode == MANY
        return [
            gr.Textbox(visible=not is_many),
            gr.Slider(visible=is_many),
            gr.Button("Compare on many prompts" if is_many else "Compare"),
            gr.HTML(visible="hidden" if is_many else True),
            gr.HTML(visible=True if is_many else "hidden"),
        ]

    def on_select(*chosen: str | None) -> list[gr.Dropdown]:
        elsewhere = next((key for key in chosen if key and key != UPLOAD), BASE_MODEL)
        choices = model_choices(service, also=elsewhere)
        keys = [key for _, key in choices]
        fallbacks = (BASE_MODEL, first_adapter(choices))
        return [
            gr.Dropdown(choices=choices, value=key if key in keys else fallback)
            for key, fallback in zip(chosen, fallbacks, strict=True)
        ]

    def on_pick(shown: str, event: gr.EventData) -> list[Any]:
        result = service.open_comparison(shown) if shown else None
        if result is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        index = min(max(int(event.index), 0), len(result.prompts) - 1)
        return [ONE, result.prompts[index], result.seeds[index]]

    controls.mode.change(
        on_mode, controls.mode, [controls.prompt, controls.count, controls.run, view.stage, view.many], **_QUIET
    )
    lists = [controls.other, controls.adapter]
    tab.select(on_select, lists, lists, **_QUIET)
    view.many.pick(on_pick, view.shown, [controls.mode, controls.prompt, controls.seed], **_QUIET)


def _wire_jobs(service: CompareService, controls: _Controls, *, view: _View) -> None:
    """Compare and cancel."""
    outputs = [view.notice, view.stage, view.many, view.shown, controls.run, controls.cancel]

    def on_run(mode: str, count: float, *asked: Any) -> Iterator[list[Any]]:
        read = _read(asked)
        if mode == MANY:
            yield from _follow(service, lambda: service.many(read, count=int(count)))
        else:
            yield from _follow(service, lambda: service.pair(read))

    def on_cancel() -> list[Any]:
        return [error_html("Cancelled. Nothing was kept."), *[gr.skip()] * 3, *_buttons(busy=False)]

    job = controls.run.click(
        on_run,
        [controls.mode, controls.count, *controls.asked()],
        outputs,
        show_progress="hidden",
        api_visibility="private",
        concurrency_id=ONE_JOB,
        concurrency_limit=MOST_AT_ONCE,
    )
    controls.cancel.click(on_cancel, None, outputs, cancels=[job], **_QUIET)


def _read(asked: tuple[Any, ...]) -> CompareInput:
    """The widgets of ``_Controls.asked`` as a request."""
    prompt, seed, other, other_guided, adapter, adapter_guided, upload, steps, guidance = asked
    return CompareInput(
        prompt=prompt or "",
        seed=int(seed or 0),
        base=SideInput(model=other or BASE_MODEL, guided=bool(other_guided)),
        tuned=SideInput(model=adapter or BASE_MODEL, guided=bool(adapter_guided)),
        upload=Path(upload) if upload else None,
        steps=int(steps),
        guidance=float(guidance),
    )


def _follow(
    service: CompareService, start: Callable[[], Iterator[StepReport | PairResult | ComparisonResult]]
) -> Iterator[list[Any]]:
    """A job as updates of the page: progress, then its result, or one line that says what is wrong."""
    is_warm = service.service.is_warm
    yield [progress_html(StepReport(phase="load"), is_warm=is_warm), *[gr.skip()] * 3, *_buttons(busy=True)]
    try:
        for message in start():
            yield [*_shown(service, message), *_buttons(busy=isinstance(message, StepReport))]
    except PageError as error:
        yield [error_html(str(error)), *[gr.skip()] * 3, *_buttons(busy=False)]


def _shown(service: CompareService, message: StepReport | PairResult | ComparisonResult) -> list[Any]:
    """Notice, stage, drawing and its id for one message of a job."""
    if isinstance(message, PairResult):
        return ["", show_pair(service, message), gr.skip(), gr.skip()]
    if isinstance(message, ComparisonResult):
        folder = service.service.store.find_comparison(message.comparison_id)
        drawing = comparison_html(message, download=file_url(folder / COMPARISON))
        return ["", gr.skip(), drawing, message.comparison_id]
    drawing = gr.skip()
    if isinstance(message, ManyReport) and message.partial is not None:
        drawing = comparison_html(message.partial)
    return [progress_html(message, is_warm=service.service.is_warm), gr.skip(), drawing, gr.skip()]


def show_pair(service: CompareService, pair: PairResult, *, frame: int = 0) -> dict[str, Any]:
    """The stage's value for a pair, its page files made if needed. Raises ``PageError``."""
    return pair_payload(
        pair,
        base=page_files(service.service, pair.base.run),
        tuned=page_files(service.service, pair.tuned.run),
        is_example=service.service.store.is_example(pair.pair_id),
        frame=frame,
    )


def opening_pair(service: CompareService, query: Mapping[str, str]) -> list[Any]:
    """Notice, stage, prompt and seed for an address's ``pair`` and ``frame``; without one, the first shipped pair.

    With a pair the form says what is shown, so that a press on Compare draws the same again. Without one it stays as it
    was built: by the time that this arrives, the visitor may have typed.
    """
    form = [gr.skip(), gr.skip()]
    pair_id = query.get("pair") or next(iter(service.service.store.pair_ids()), "")
    if not pair_id:
        return ["", gr.skip(), *form]
    frame = int(query["frame"]) if query.get("frame", "").isdecimal() and "pair" in query else 0
    try:
        pair = service.open_pair(pair_id)
        stage = show_pair(service, pair, frame=frame)
    except PageError as error:
        return [error_html(str(error)), gr.skip(), *form]
    run = pair.base.run
    return ["", stage, *([run.prompt or gr.skip(), _known(run.seed)] if "pair" in query else form)]


def _first_form(service: CompareService) -> tuple[str, int]:
    """Prompt and seed that the form begins with: those of the first shipped pair, which an empty visit shows."""
    pair_id = next(iter(service.service.store.pair_ids()), "")
    with suppress(PageError):
        if pair_id:
            run = service.open_pair(pair_id).base.run
            return run.prompt or service.service.compose(FIRST_SCENE), run.seed or 0
    return service.service.compose(FIRST_SCENE), 0


def _known(seed: int | None) -> Any:
    """A seed for the form; what a manifest does not say stays as it is there."""
    return gr.skip() if seed is None else seed


def wire_compare_opening(
    page: gr.Blocks, service: CompareService, panel: ComparePanel, *, tabs: gr.Tabs, gallery: gr.HTML | None
) -> None:
    """Opening a pair from a link or the gallery, or the first shipped one on an empty visit."""

    def on_load(request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        chosen = gr.Tabs(selected="compare") if "pair" in query else gr.skip()
        return [*opening_pair(service, query), chosen]

    def on_card(event: gr.EventData) -> list[Any]:
        return [*opening_pair(service, {"pair": str(event.pair)}), gr.Tabs(selected="compare")]

    outputs = [panel.notice, panel.stage, panel.prompt, panel.seed, tabs]
    page.load(on_load, None, outputs, **_QUIET)
    if gallery is not None:
        gallery.open_pair(on_card, None, outputs, **_QUIET)


def _buttons(*, busy: bool) -> list[gr.Button]:
    """Compare, cancel: one of them."""
    return [gr.Button(visible=not busy), gr.Button(visible=busy)]
