"""Named endpoints for ``gradio_client``: hidden widgets give the parameters their types, functions their names."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from demo.job_queue import MOST_AT_ONCE
from demo.panels.generate import ONE_JOB, page_files
from demo.results import RunResult
from demo.service import SCORE_KINDS, GenerateInput, PageError, PageService, SamplingDefaults, StepReport, kind_of_file
from demo.viewers.stage import downloads


def build_endpoints(service: PageService, *, defaults: SamplingDefaults) -> None:
    """Add ``/generate`` and ``/score``."""
    with gr.Row(visible=False):
        answer = gr.JSON(label="answer")
        _add_generate(service, defaults=defaults, answer=answer)
        _add_score(service, answer=answer)


def _add_generate(service: PageService, *, defaults: SamplingDefaults, answer: gr.JSON) -> None:
    """The endpoint ``/generate``."""

    def generate(  # noqa: PLR0913 - the parameters are the endpoint's
        prompt: str,
        seed: float = 0,
        steps: float | None = None,
        guidance: float | None = None,
        first_frame: str | None = None,
        preset: str = "",
        reward_guidance: float = 0,
        reward_guidance_every: float | None = None,
        request: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Generate a video with its 4D scene and rewards.

        Streams ``{"state": "running", "phase", "ahead", "done", "total", "seconds_left"}``, ``ahead`` being how
        many others come first while the phase is "queue"; the last value is ``{"state":
        "done", "run", "rewards", "reward_guidance", "files", "page"}`` with the run's name, the contract's rewards,
        the rewards without and with guidance (null where it was off), and the address of every file and of the page
        that shows the run. ``client.predict`` returns that last value.

        Args:
            prompt: what the video shows, in the words of the embedded world for the tiny presets
            seed: the same seed and prompt give the same video
            steps: denoising steps; the preset's own number if omitted
            guidance: how strictly the video follows the prompt; the preset's own number if omitted
            first_frame: a picture that the video starts from
            preset: name of a preset; the server's own if empty
            reward_guidance: how strongly rewards steer the sampling, 0 is off; takes several times as long
            reward_guidance_every: guide every n-th denoising step
        """
        asked = GenerateInput(
            prompt=prompt,
            seed=int(seed),
            steps=None if steps is None else int(steps),
            guidance=None if guidance is None else float(guidance),
            first_frame=Path(first_frame) if first_frame else None,
            preset=preset or None,
            reward_guidance=float(reward_guidance),
            reward_guidance_every=None if reward_guidance_every is None else int(reward_guidance_every),
        )
        yield from _stream(service, lambda: service.generate(asked), request)

    gr.Button().click(
        generate,
        [
            gr.Textbox(label="prompt"),
            gr.Number(0, label="seed"),
            gr.Number(defaults.steps, label="steps"),
            gr.Number(defaults.guidance, label="guidance"),
            gr.File(label="first_frame"),
            gr.Textbox("", label="preset"),
            gr.Number(0, label="reward_guidance"),
            gr.Number(None, label="reward_guidance_every"),
        ],
        answer,
        api_name="generate",
        concurrency_id=ONE_JOB,
        concurrency_limit=MOST_AT_ONCE,
    )


def _add_score(service: PageService, *, answer: gr.JSON) -> None:
    """The endpoint ``/score``."""

    def score(file: str, kind: str = "auto", request: gr.Request | None = None) -> Iterator[dict[str, Any]]:
        """Score a video, a geometry.npz or latents; streams and returns as ``/generate`` does.

        Args:
            file: a video, a geometry.npz, or a latents.safetensors
            kind: "video", "geometry", "latents", or "auto" to go by the file's name
        """
        if not file:
            raise gr.Error("file is missing: give a video, a geometry.npz or latents", print_exception=False)
        if kind != "auto" and kind not in SCORE_KINDS:
            raise gr.Error(f"kind must be {', '.join(SCORE_KINDS)} or auto, not {kind!r}", print_exception=False)
        chosen = SCORE_KINDS[SCORE_KINDS.index(kind)] if kind in SCORE_KINDS else kind_of_file(file)
        yield from _stream(service, lambda: service.score(Path(file), kind=chosen), request)

    gr.Button().click(
        score,
        [gr.File(label="file"), gr.Textbox("auto", label="kind")],
        answer,
        api_name="score",
        concurrency_id=ONE_JOB,
        concurrency_limit=MOST_AT_ONCE,
    )


def _stream(
    service: PageService, start: Callable[[], Iterator[StepReport | RunResult]], request: gr.Request | None
) -> Iterator[dict[str, Any]]:
    """A job as JSON objects."""
    try:
        for message in start():
            yield progress_answer(message) if isinstance(message, StepReport) else _answer(service, message, request)
    except PageError as error:
        raise gr.Error(str(error), print_exception=False) from error


def progress_answer(report: StepReport) -> dict[str, Any]:
    """How far a job is."""
    return {
        "state": "running",
        "phase": report.phase,
        "ahead": report.ahead,
        "done": report.done,
        "total": report.total,
        "seconds_left": report.seconds_left,
    }


def _answer(service: PageService, run: RunResult, request: gr.Request | None) -> dict[str, Any]:
    """The finished run with absolute addresses."""
    files = page_files(service, run)
    root = root_of(request)
    return {
        "state": "done",
        "run": run.run_id,
        "rewards": run.rewards_json(),
        "reward_guidance": None if run.reward_guidance is None else asdict(run.reward_guidance),
        "files": {item["file"]: root + item["url"] for item in downloads(run, files)},
        "page": f"{root}?run={run.run_id}",
    }


def root_of(request: gr.Request | None) -> str:
    """The address under which the caller reached the page, with a slash at its end."""
    if request is None or request.request is None:
        return ""
    headers = request.request.headers
    scheme = headers.get("x-forwarded-proto", request.request.url.scheme).split(",")[0]
    root_path = str(request.request.scope.get("root_path") or "").removesuffix("/gradio_api").rstrip("/")
    return f"{scheme}://{headers.get('x-forwarded-host') or headers['host']}{root_path}/"
