"""Tab "Fine-tune": settings on the left, the board of one fine-tune on the right.

The page starts, stops and reads; the training itself is a process of its own (``demo.jobs``).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.environment import HOUR
from demo.finetune_text import (
    EMPTY_HINT,
    EMPTY_TITLE,
    INFO,
    INTRO,
    LABELS,
    LIST_TITLE,
    MY_LIST_TITLE,
    NOT_SHARED,
    OWN_PROMPTS,
    PROMPTS_HINT,
    RANDOM_PROMPTS,
    SHARED,
)
from demo.job_queue import PageError
from demo.outcomes import Finetune
from demo.panels.progress import error_html
from demo.training_service import BOUNDS, TrainingInput, TrainingService, read_prompts
from demo.viewers.stage import file_url, plotly_script, read_scripts
from demo.viewers.training import board, stamp, summary

_VIEWERS = Path(__file__).parent.parent / "viewers"
_SCRIPTS = ("dom.js", "training_parts.js", "training.js")
_EXAMPLE_PROMPTS = 8
_SLIDERS = {
    "training_captions": (8, 1024, 8),
    "iterations": (1, 200, 1),
    "groups": (1, 16, 1),
    "group_size": (2, 64, 1),
    "motion_smoothness": (0.0, 2.0, 0.1),
    "geometry_consistency": (0.0, 2.0, 0.1),
    "scene_smoothness": (0.0, 2.0, 0.1),
    "motion_guard": (0.0, 3.0, 0.1),
}
"""Lowest, highest and step of a slider; the endpoints allow all of ``BOUNDS``."""
_NUMBERS = ("learning_rate", "kl_weight", "seed")
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}


@dataclass(frozen=True, kw_only=True)
class FinetunePanel:
    """What other parts of the page talk to: the board fires ``use_adapter`` with the name of a fine-tune."""

    board: gr.HTML
    sizes: tuple[gr.components.Component, ...]
    """Inputs of ``estimate_html`` in order."""
    estimate: gr.HTML


@dataclass(frozen=True, kw_only=True)
class _Controls:
    """Widgets of the left column; ``settings`` by the name in ``TrainingInput``."""

    settings: Mapping[str, Any]
    source: gr.Radio
    own: gr.Column
    prompts: gr.Textbox
    dice: gr.Button
    estimate: gr.HTML
    start: gr.Button


def build_finetune(training: TrainingService) -> FinetunePanel:
    """Build the tab and wire it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=0, min_width=320, elem_id="finetune-controls", elem_classes="controls"):
            controls = _build_controls(training)
        with gr.Column(scale=1, min_width=360):
            notice = gr.HTML("", elem_id="finetune-notice", apply_default_css=False)
            shown = _build_board(training)
    _wire_settings(training, controls)
    sizes = tuple(controls.settings[name] for name in ("preset", "iterations", "groups", "group_size"))
    _wire_estimate(training, controls, sizes=sizes)
    _wire_start(training, controls, notice=notice, shown=shown)
    return FinetunePanel(board=shown, sizes=sizes, estimate=controls.estimate)


def _build_controls(training: TrainingService) -> _Controls:
    """The left column."""
    defaults = training.defaults(training.preset)
    presets = training.presets()
    gr.HTML(f'<p class="hint">{escape(INTRO)}</p>', apply_default_css=False)
    settings: dict[str, Any] = {}
    settings["preset"] = gr.Dropdown(
        [choice.name for choice in presets], value=training.preset, label=LABELS["preset"], info=INFO["preset"]
    )
    source = gr.Radio([RANDOM_PROMPTS, OWN_PROMPTS], value=RANDOM_PROMPTS, label="Prompts", elem_id="finetune-source")
    settings["training_captions"] = _slider("training_captions", defaults)
    with gr.Column(visible=False, elem_id="own-prompts") as own:
        prompts = gr.Textbox(
            "\n".join(training.random_prompts(_EXAMPLE_PROMPTS, seed=0)),
            show_label=False,
            info=PROMPTS_HINT,
            lines=7,
            max_lines=14,
            elem_id="finetune-prompts",
        )
        dice = gr.Button("Write others", size="sm", elem_id="finetune-dice")
    for name in ("iterations", "groups", "group_size"):
        settings[name] = _slider(name, defaults)
    with gr.Accordion("Rewards", open=True, elem_classes="weights"):
        for name in ("motion_smoothness", "geometry_consistency", "scene_smoothness", "motion_guard"):
            settings[name] = _slider(name, defaults)
    with gr.Accordion("Algorithm", open=False):
        settings["transition"] = gr.Dropdown(
            list(training.transitions()),
            value=defaults.transition,
            label=LABELS["transition"],
            info=INFO["transition"],
        )
        for name in _NUMBERS:
            settings[name] = gr.Number(getattr(defaults, name), label=LABELS[name], info=INFO[name])
    estimate = gr.HTML("", elem_id="estimate", apply_default_css=False)
    why_not = training.why_not(training.preset)
    start = gr.Button("Start", variant="primary", interactive=not why_not, elem_id="finetune-start")
    return _Controls(
        settings=settings, source=source, own=own, prompts=prompts, dice=dice, estimate=estimate, start=start
    )


def _slider(name: str, defaults: TrainingInput) -> gr.Slider:
    low, high, step = _SLIDERS[name]
    value = getattr(defaults, name)
    return gr.Slider(
        low, max(high, value), value, step=step, label=LABELS[name], info=INFO[name], elem_id=f"finetune-{name}"
    )


def _build_board(training: TrainingService) -> gr.HTML:
    """The board. It asks for itself; its value only says which fine-tune to open."""

    def look(asked: dict[str, Any]) -> dict[str, Any]:
        return answer_look(training, job=str(asked.get("job") or ""), seen=str(asked.get("stamp") or ""))

    def act(asked: dict[str, Any]) -> dict[str, Any]:
        return answer_act(training, action=str(asked.get("action") or ""), job=str(asked.get("job") or ""))

    return gr.HTML(
        value=None,
        html_template='<div class="board" data-state="" data-iteration="0"></div>',
        js_on_load=read_scripts(_VIEWERS, _SCRIPTS),
        server_functions=[look, act],
        apply_default_css=False,
        elem_id="board",
        plotly=file_url(plotly_script()),
        empty_title=EMPTY_TITLE,
        empty_hint=EMPTY_HINT,
        **_list_texts(training),
    )


def _list_texts(training: TrainingService) -> dict[str, str]:
    """What stands above and below the list of fine-tunes."""
    environment = training.environment
    if not environment.is_public:
        return {"list_title": LIST_TITLE, "shared": SHARED}
    hours = (environment.limits.finetune_seconds or 0.0) / HOUR
    return {"list_title": MY_LIST_TITLE, "shared": NOT_SHARED.format(hours=hours)}


def answer_look(training: TrainingService, *, job: str, seen: str) -> dict[str, Any]:
    """What changed since the board last looked: the fine-tune of a name, else the active or the newest one."""
    everything = training.all()
    finetune: Finetune | None = None
    with suppress(PageError):
        finetune = training.find(job)
    if finetune is None:
        active = [one for one in everything if one.outcome.is_active and one.outcome.state != "queued"]
        finetune = next(iter([*active, *everything]), None)
    listed = [summary(one) for one in everything]
    now = f"{'' if finetune is None else stamp(finetune)}|{listed}"
    looked_at = [*everything, *filter(None, [finetune])]
    answer: dict[str, Any] = {"isActive": any(one.outcome.is_active for one in looked_at), "stamp": now}
    if now == seen:
        return answer
    shown = {"job": None} if finetune is None else board(finetune, is_mine=training.is_mine(finetune))
    return answer | {"list": listed, "board": shown}


def answer_act(training: TrainingService, *, action: str, job: str) -> dict[str, Any]:
    """Stop, resume or remove a fine-tune; a mistake is one line for the visitor."""
    try:
        if action == "stop":
            training.stop(job)
        elif action == "resume":
            training.resume(job)
        elif action == "remove":
            training.remove(job)
            return {"job": ""}
        else:
            return {"error": f"there is nothing called {action!r} to do"}
    except PageError as error:
        return {"error": str(error)}
    return {"job": job}


def _wire_settings(training: TrainingService, controls: _Controls) -> None:
    """Preset → defaults, source → prompts."""
    names = [name for name in controls.settings if name != "preset"]

    def on_preset(preset: str) -> list[Any]:
        defaults = training.defaults(preset)
        why_not = training.why_not(preset)
        return [gr.Button(interactive=not why_not), *(getattr(defaults, name) for name in names)]

    def on_source(source: str) -> list[Any]:
        is_own = source == OWN_PROMPTS
        return [gr.Slider(visible=not is_own), gr.Column(visible=is_own)]

    def on_dice(seed: float) -> str:
        return "\n".join(training.random_prompts(_EXAMPLE_PROMPTS, seed=int(seed)))

    controls.settings["preset"].input(
        on_preset, controls.settings["preset"], [controls.start, *(controls.settings[name] for name in names)], **QUIET
    )
    controls.source.change(on_source, controls.source, [controls.settings["training_captions"], controls.own], **QUIET)
    roll = gr.Number(0, visible=False)
    controls.dice.click(None, None, roll, js="() => Math.floor(Math.random() * 1e6)", **QUIET).then(
        on_dice, roll, controls.prompts, **QUIET
    )


def _wire_estimate(
    training: TrainingService, controls: _Controls, *, sizes: tuple[gr.components.Component, ...]
) -> None:
    """The estimate follows the sizes, and the queue after Start."""

    def on_sizes(preset: str, iterations: float, groups: float, group_size: float) -> str:
        return estimate_html(training, preset=preset, iterations=iterations, videos=groups * group_size)

    gr.on(
        [*(widget.change for widget in sizes), controls.start.click],
        on_sizes,
        list(sizes),
        controls.estimate,
        trigger_mode="always_last",
        **QUIET,
    )


def _wire_start(training: TrainingService, controls: _Controls, *, notice: gr.HTML, shown: gr.HTML) -> None:
    """Start queues a fine-tune and opens it on the board."""
    names = list(controls.settings)

    def on_start(source: str, prompts: str, *values: Any) -> list[Any]:
        settings = dict(zip(names, values, strict=True))
        own = read_prompts(prompts) if source == OWN_PROMPTS else ()
        try:
            if source == OWN_PROMPTS and not own:
                raise PageError("there are no prompts: write at least one, a line each")
            finetune = training.start(read_input(settings, prompts=own))
        except PageError as error:
            return [error_html(str(error)), gr.skip()]
        return ["", {"job": finetune.job.job_id}]

    controls.start.click(
        on_start, [controls.source, controls.prompts, *controls.settings.values()], [notice, shown], **QUIET
    )


def read_input(settings: Mapping[str, Any], *, prompts: tuple[str, ...]) -> TrainingInput:
    """Widget or endpoint values as a request: numbers of the right kind. Raises ``PageError``."""
    read: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in BOUNDS:
            read[name] = str(value)
            continue
        is_whole = name in {"training_captions", "iterations", "groups", "group_size", "seed"}
        try:
            read[name] = int(value) if is_whole else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise PageError(f"{LABELS[name].lower()} must be a number, not {value!r}") from error
        if is_whole and read[name] != value:
            raise PageError(f"{LABELS[name].lower()} must be a whole number, not {value!r}")
    return TrainingInput(prompts=prompts, **read)


def estimate_html(training: TrainingService, *, preset: str, iterations: float, videos: float) -> str:
    """The estimate, or why nothing can be started; ``videos`` are those of one iteration."""
    if why_not := training.why_not(preset):
        return f'<div class="notice" role="status">{escape(why_not)}</div>'
    text = training.estimate(preset=preset, iterations=int(iterations), videos=int(videos))
    return f'<p class="estimate">{escape(text)}</p>'
