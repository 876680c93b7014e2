"""The named endpoint ``/compare`` for ``gradio_client``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.compare_service import BASE_MODEL, UPLOAD, CompareInput, CompareService, SideInput
from demo.job_queue import MOST_AT_ONCE
from demo.pair_results import PairResult, SideRun
from demo.panels.endpoints import progress_answer, root_of
from demo.panels.generate import ONE_JOB, page_files
from demo.service import PageError, SamplingDefaults, StepReport
from demo.viewers.stage import downloads


def build_compare_endpoints(service: CompareService, *, defaults: SamplingDefaults) -> None:
    """Add ``/compare``."""

    def compare(  # noqa: PLR0913 - the parameters are the endpoint's
        prompt: str,
        seed: float = 0,
        adapter: str = "",
        other_adapter: str = "",
        adapter_file: str | None = None,
        steps: float | None = None,
        guidance: float | None = None,
        request: gr.Request | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Generate one prompt and seed on two sides: the base (or another adapter) and an adapter.

        Streams ``{"state": "running", "side", "phase", "done", "total", "seconds_left"}``; the last value is
        ``{"state": "done", "pair", "base", "tuned", "page"}``, each side with ``label``, ``run``, ``rewards`` and
        ``files``.

        Args:
            prompt: what both videos show
            seed: both videos start from its noise
            adapter: key of an adapter of this server: a fine-tune's name, or "shipped.NAME"; empty with adapter_file
            other_adapter: the same for the first side; empty for the base model
            adapter_file: your own LoRA in diffusers' format, .safetensors
            steps: denoising steps; the preset's own number if omitted
            guidance: how strictly both videos follow the prompt; the preset's own number if omitted
        """
        asked = CompareInput(
            prompt=prompt,
            seed=int(seed),
            base=SideInput(model=other_adapter or BASE_MODEL),
            tuned=SideInput(model=UPLOAD if adapter_file else adapter or BASE_MODEL),
            upload=Path(adapter_file) if adapter_file else None,
            steps=None if steps is None else int(steps),
            guidance=None if guidance is None else float(guidance),
        )
        try:
            for message in service.pair(asked):
                if isinstance(message, StepReport):
                    yield progress_answer(message) | {"side": message.side}
                else:
                    yield _answer(service, message, request)
        except PageError as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Row(visible=False):
        gr.Button().click(
            compare,
            [
                gr.Textbox(label="prompt"),
                gr.Number(0, label="seed"),
                gr.Textbox("", label="adapter"),
                gr.Textbox("", label="other_adapter"),
                gr.File(label="adapter_file"),
                gr.Number(defaults.steps, label="steps"),
                gr.Number(defaults.guidance, label="guidance"),
            ],
            gr.JSON(label="answer"),
            api_name="compare",
            concurrency_id=ONE_JOB,
            concurrency_limit=MOST_AT_ONCE,
        )


def _answer(service: CompareService, pair: PairResult, request: gr.Request | None) -> dict[str, Any]:
    """The finished pair with absolute addresses."""
    root = root_of(request)

    def side(one: SideRun) -> dict[str, Any]:
        files = downloads(one.run, page_files(service.service, one.run))
        return {
            "label": one.label,
            "run": one.run.run_id,
            "rewards": one.run.rewards_json(),
            "files": {item["file"]: root + item["url"] for item in files},
        }

    return {
        "state": "done",
        "pair": pair.pair_id,
        "base": side(pair.base),
        "tuned": side(pair.tuned),
        "page": f"{root}?pair={pair.pair_id}",
    }
