"""Tab "Generate & inspect": controls on the left, progress and the stage on the right.

The score section lives here too, because its result is looked at on the same stage.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from demo.job_queue import MOST_AT_ONCE
from demo.panels.progress import error_html, progress_html
from demo.preset_service import PresetOption
from demo.results import RunResult, UnreadableRun
from demo.service import GenerateInput, PageError, PageService, SamplingDefaults, StepReport, kind_of_file
from demo.text import FIRST_FRAME_HINT, GUIDANCE_HINT, OTHER_MODELS, PROMPT_PLACEHOLDER, SCORE_HINT, UNKNOWN_WORDS
from demo.viewers.stage import PageFiles, build_stage, payload, prepare, read_scripts

ONE_JOB = "studio"
"""Gradio's name for everything that uses the models; one at a time, see ``demo.job_queue``."""

SCORED_TYPES = [".mp4", ".webm", ".mov", ".mkv", ".avi", ".npz", ".safetensors"]
MOST_REWARD_GUIDANCE = 100
MOST_STEPS = 50
NOTHING_CHOSEN = "Choose a video, a geometry.npz or a latents.safetensors first."
FIRST_SCENE = {
    "objects": [
        {"colour": "red", "shape": "sphere", "motion": "still"},
        {"colour": "blue", "shape": "cube", "motion": "still"},
    ],
    "floor_colour": "grey",
    "floor_pattern": "checkered",
    "camera_move": "orbit left",
}


@dataclass(frozen=True, kw_only=True)
class GeneratePanel:
    """The widgets that other parts of the page talk to."""

    prompt: gr.Textbox
    seed: gr.Number
    notice: gr.HTML
    stage: gr.HTML


@dataclass(frozen=True, kw_only=True)
class _Controls:
    """Widgets of the left column."""

    preset: gr.Dropdown
    about_preset: gr.HTML
    prompt: gr.Textbox
    words: gr.HTML
    builder: gr.HTML
    seed: gr.Number
    dice: gr.Button
    steps: gr.Slider
    guidance: gr.Slider
    guidance_section: gr.Accordion
    reward_guidance: gr.Slider
    reward_guidance_every: gr.Slider
    first_frame_section: gr.Accordion
    first_frame: gr.Image
    generate: gr.Button
    cancel: gr.Button
    file: gr.File
    score: gr.Button


def build_generate(service: PageService, *, defaults: SamplingDefaults) -> GeneratePanel:
    """Build the tab and wire it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=0, min_width=320, elem_id="controls"):
            controls = _build_controls(service, defaults=defaults)
        with gr.Column(scale=1, min_width=360):
            notice = gr.HTML("", elem_id="notice", apply_default_css=False)
            stage = build_stage()
    _wire_words(service, controls)
    _wire_preset(service, controls)
    _wire_jobs(service, controls, notice=notice, stage=stage)
    return GeneratePanel(prompt=controls.prompt, seed=controls.seed, notice=notice, stage=stage)


def _build_controls(service: PageService, *, defaults: SamplingDefaults) -> _Controls:
    """The left column."""
    own = service.preset_option(service.preset)
    prompt = gr.Textbox(
        service.compose(FIRST_SCENE),
        label="Prompt",
        lines=3,
        max_lines=6,
        placeholder=PROMPT_PLACEHOLDER,
        elem_id="prompt",
    )
    words = gr.HTML("", elem_id="unknown-words", apply_default_css=False)
    builder = _build_prompt_builder(service, visible=own.closed_vocabulary)
    with gr.Row(elem_id="seed-row"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, elem_id="seed")
        dice = gr.Button("⚄", elem_id="dice", min_width=44, scale=0)
    preset, about_preset = _build_preset(service, own)
    with gr.Accordion("Sampling", open=False):
        steps = gr.Slider(1, MOST_STEPS, defaults.steps, step=1, label="Steps", info="More steps draw more carefully")
        guidance = gr.Slider(
            1.0, 12.0, defaults.guidance, step=0.5, label="Guidance", info="How strictly the video follows the prompt"
        )
    with gr.Accordion(
        "Reward guidance", open=False, visible=own.can_guide, elem_id="reward-guidance-section"
    ) as guidance_section:
        gr.HTML(f'<p class="hint">{escape(GUIDANCE_HINT)}</p>', apply_default_css=False)
        reward_guidance = gr.Slider(
            0, MOST_REWARD_GUIDANCE, 0, step=1, label="Scale", info="0 is off", elem_id="reward-guidance"
        )
        reward_guidance_every = gr.Slider(
            1, 10, 2, step=1, label="Every n-th step", info="Fewer guided steps are faster and steer less"
        )
    with gr.Accordion(
        "First frame", open=False, visible=own.takes_first_frame, elem_id="first-frame-section"
    ) as first_frame_section:
        gr.HTML(f'<p class="hint">{escape(FIRST_FRAME_HINT)}</p>', apply_default_css=False)
        first_frame = gr.Image(
            type="filepath",
            # None: Gradio hands the file on as it is; it is decoded in a process of its own.
            image_mode=None,
            sources=["upload", "clipboard"],
            show_label=False,
            height=170,
            elem_id="first-frame",
        )
    generate = gr.Button("Generate", variant="primary", elem_id="generate")
    cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
    with gr.Accordion("Score your own video or geometry", open=False, elem_id="score-section"):
        gr.HTML(f'<p class="hint">{escape(SCORE_HINT)}</p>', apply_default_css=False)
        file = gr.File(file_types=SCORED_TYPES, show_label=False, height=110, elem_id="score-file")
        score = gr.Button("Score", elem_id="score")
    return _Controls(
        preset=preset,
        about_preset=about_preset,
        prompt=prompt,
        words=words,
        builder=builder,
        seed=seed,
        dice=dice,
        steps=steps,
        guidance=guidance,
        guidance_section=guidance_section,
        reward_guidance=reward_guidance,
        reward_guidance_every=reward_guidance_every,
        first_frame_section=first_frame_section,
        first_frame=first_frame,
        generate=generate,
        cancel=cancel,
        file=file,
        score=score,
    )


def _build_preset(service: PageService, own: PresetOption) -> tuple[gr.Dropdown, gr.HTML]:
    """The choice of the model, what it is, and why the others cannot be chosen."""
    options = service.presets()
    usable = [option.name for option in options if not option.why_not or option.name == own.name]
    with gr.Accordion("Model", open=bool(own.why_not), elem_id="preset-section"):
        preset = gr.Dropdown(usable, value=own.name, show_label=False, label="Model", elem_id="preset")
        about = gr.HTML(preset_html(own), apply_default_css=False)
        others = [option for option in options if option.name not in usable]
        if others:
            listed = "".join(f"<li>{escape(one.why_not)}</li>" for one in others)
            gr.HTML(
                f'<div class="hint"><p>{escape(OTHER_MODELS)}</p><ul class="not-here">{listed}</ul></div>',
                elem_id="presets-not-here",
                apply_default_css=False,
            )
    return preset, about


def preset_html(option: PresetOption) -> str:
    """What a preset is, what it draws, and what to know of it."""
    lines = [option.summary, option.size]
    warning = option.why_not or option.note
    notice = f'<div class="notice" role="status">{escape(warning)}</div>' if warning else ""
    return "".join(f'<p class="hint">{escape(line)}</p>' for line in lines) + notice


def _wire_preset(service: PageService, controls: _Controls) -> None:
    """Another model: its own numbers, and only the inputs that it takes."""

    def on_preset(name: str) -> list[Any]:
        option = service.preset_option(name)
        return [
            preset_html(option),
            option.steps,
            option.guidance,
            gr.HTML(visible=option.closed_vocabulary),
            gr.Accordion(visible=option.takes_first_frame),
            None,
            gr.Accordion(visible=option.can_guide),
            0,
        ]

    outputs = [
        controls.about_preset,
        controls.steps,
        controls.guidance,
        controls.builder,
        controls.first_frame_section,
        controls.first_frame,
        controls.guidance_section,
        controls.reward_guidance,
    ]
    controls.preset.input(
        on_preset, controls.preset, outputs, show_progress="hidden", api_visibility="private", queue=False
    )


def _build_prompt_builder(service: PageService, *, visible: bool) -> gr.HTML:
    """The sentence with holes; fires ``compose`` with the visitor's choices."""
    words = service.vocabulary()
    return gr.HTML(
        value=None,
        html_template='<div class="builder" role="group" aria-label="Prompt builder"></div>',
        js_on_load=read_scripts(Path(__file__).parent, ("prompt_builder.js",)),
        apply_default_css=False,
        visible=visible,
        elem_id="builder",
        words={
            "colours": {name: list(rgb) for name, rgb in words.colours.items()},
            "shapes": list(words.shapes),
            "floor_colours": {name: list(rgb) for name, rgb in words.floor_colours.items()},
            "floor_patterns": list(words.floor_patterns),
            "camera_moves": list(words.camera_moves),
            "object_motions": list(words.object_motions),
            "most_objects": words.most_objects,
        },
        start=FIRST_SCENE,
    )


def _wire_words(service: PageService, controls: _Controls) -> None:
    """Builder → prompt, prompt → unknown words, dice → seed."""

    def compose(event: gr.EventData) -> str:
        scene: Mapping[str, Any] = event.scene
        try:
            return service.compose(scene)
        except PageError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def unknown(prompt: str, preset: str) -> str:
        words = service.unknown_words(prompt, preset=preset)
        if not words:
            return ""
        named = ", ".join(f"<b>{escape(word)}</b>" for word in words[:12])
        return f'<div class="notice" role="status">{UNKNOWN_WORDS.format(words=named)}</div>'

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    controls.builder.compose(compose, None, controls.prompt, **quiet)
    gr.on(
        [controls.prompt.change, controls.preset.input],
        unknown,
        [controls.prompt, controls.preset],
        controls.words,
        trigger_mode="always_last",
        **quiet,
    )
    controls.dice.click(None, None, controls.seed, js="() => Math.floor(Math.random() * 1e6)", **quiet)


def _wire_jobs(service: PageService, controls: _Controls, *, notice: gr.HTML, stage: gr.HTML) -> None:
    """Generate, score and cancel."""
    outputs = [notice, stage, controls.generate, controls.score, controls.cancel]

    def on_generate(  # noqa: PLR0913 - the widgets are the parameters
        prompt: str,
        seed: float | None,
        steps: float,
        guidance: float,
        first_frame: str | None,
        reward_guidance: float,
        reward_guidance_every: float,
        preset: str,
    ) -> Iterator[list[Any]]:
        asked = GenerateInput(
            prompt=prompt,
            seed=int(seed or 0),
            steps=int(steps),
            guidance=float(guidance),
            first_frame=Path(first_frame) if first_frame else None,
            preset=preset,
            reward_guidance=float(reward_guidance),
            reward_guidance_every=int(reward_guidance_every),
        )
        yield from _follow(service, lambda: service.generate(asked))

    def on_score(file: str | None) -> Iterator[list[Any]]:
        if file is None:
            yield [
                error_html(NOTHING_CHOSEN),
                gr.skip(),
                *_buttons(busy=False),
            ]
            return
        yield from _follow(service, lambda: service.score(Path(file), kind=kind_of_file(file)))

    def on_cancel() -> list[Any]:
        return [error_html("Cancelled. Nothing was kept."), gr.skip(), *_buttons(busy=False)]

    job: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_id": ONE_JOB,
        "concurrency_limit": MOST_AT_ONCE,
    }
    generation = gr.on(
        [controls.generate.click, controls.prompt.submit],
        on_generate,
        [
            controls.prompt,
            controls.seed,
            controls.steps,
            controls.guidance,
            controls.first_frame,
            controls.reward_guidance,
            controls.reward_guidance_every,
            controls.preset,
        ],
        outputs,
        **job,
    )
    scoring = controls.score.click(on_score, controls.file, outputs, **job)
    controls.cancel.click(
        on_cancel,
        None,
        outputs,
        cancels=[generation, scoring],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )


def _follow(service: PageService, start: Callable[[], Iterator[StepReport | RunResult]]) -> Iterator[list[Any]]:
    """A job as updates of the page: progress, then the stage, or one line that says what is wrong."""
    yield [progress_html(StepReport(phase="load"), is_warm=service.is_warm), gr.skip(), *_buttons(busy=True)]
    try:
        for message in start():
            if isinstance(message, RunResult):
                yield ["", show(service, message), *_buttons(busy=False)]
            else:
                yield [progress_html(message, is_warm=service.is_warm), gr.skip(), *_buttons(busy=True)]
    except PageError as error:
        yield [error_html(str(error)), gr.skip(), *_buttons(busy=False)]


def show(service: PageService, run: RunResult, *, frame: int = 0) -> dict[str, Any]:
    """The stage's value for a run, its page files made if needed."""
    files = page_files(service, run)
    return payload(run, files, is_example=service.store.is_example(run.run_id), frame=frame)


def page_files(service: PageService, run: RunResult) -> PageFiles:
    """What the page derives from a run. Raises ``PageError`` for a run that holds nothing to show."""
    try:
        return prepare(run, folder=service.store.page_files(run.run_id))
    except UnreadableRun as error:
        raise PageError(str(error)) from error


def _buttons(*, busy: bool) -> list[gr.Button]:
    """Generate, score, cancel: either the first two or the last."""
    return [
        gr.Button(visible=not busy),
        gr.Button(interactive=not busy),
        gr.Button(visible=busy),
    ]
