"""A GPU that is lent for seconds at a time: Hugging Face's ZeroGPU, through its ``spaces`` package.

There, CUDA exists only inside functions marked with ``@spaces.GPU``, which run in a process forked for the call. What
goes in and out is pickled. So a job is a plain dataclass (``demo.service.Task``), and the forked process builds a page
service of its own from a ``Blueprint`` and does the job with it; both processes see the same runs folder. Everywhere
else ``spaces`` is neither needed nor imported. It must be imported before torch is.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from demo.environment import Environment, read_place
from demo.job_queue import PageError, StepReport
from demo.run_store import RunStore

if TYPE_CHECKING:
    from demo.service import PageService

LONGEST = 300
"""Seconds of GPU that one job may ask for."""
_LOADING = 30.0
"""Seconds to fork, load the models and write the run."""
_FLOPS = 1e14
"""Operations a second that such a GPU does on this kind of model: half of what it can at best."""
_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a page service is built from."""

    preset: str
    store: RunStore
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class Failed:
    """How a job ended that did not succeed: exceptions do not come back from the forked process as they were."""

    message: str


def estimate(blueprint: Blueprint, task: Any) -> int:
    """Seconds of GPU to ask for. Raises ``PageError`` where that is more than one job gets."""
    from vggrpo.presets import get_preset

    preset = get_preset(getattr(getattr(task, "asked", None), "preset", None) or blueprint.preset)
    seconds = _LOADING + _video_seconds(preset, task) * getattr(task, "videos", 1)
    if seconds > LONGEST:
        raise PageError(
            f"This would take about {seconds:.0f} s of GPU, and a visitor gets {LONGEST} s at a time here: ask for "
            "fewer steps or prompts."
        )
    return int(seconds)


def _video_seconds(preset: Any, task: Any) -> float:
    """Denoising one video: two passes a step, over all tokens, through the layers' matrices and their attention."""
    asked = getattr(task, "asked", None)
    shape = {} if preset.sizes is None else preset.sizes.transformer
    width = shape.get("num_attention_heads", 8) * shape.get("attention_head_dim", 64)
    layers, inner = shape.get("num_layers", 8), shape.get("ffn_dim", 4 * width)
    _, frames, height, columns = preset.latent_shape
    tokens = frames * (height // 2) * (columns // 2)
    operations = layers * (2 * tokens * (8 * width**2 + 2 * width * inner) + 4 * tokens**2 * width)
    passes = 2.0 * (getattr(asked, "steps", None) or preset.steps)
    if getattr(asked, "reward_guidance", 0):
        # The unguided video of the same seed, and a gradient at every guided step.
        passes *= 2.0 + 3.0 / (getattr(asked, "reward_guidance_every", None) or 2)
    return 1.5 * passes * operations / _FLOPS


def follow(blueprint: Blueprint, task: Any) -> Iterator[Any]:
    """Reports of the job, then its result. Raises ``PageError``, also where no GPU is to be had."""
    from gradio import Error

    try:
        for message in _on_gpu(blueprint, task):
            if isinstance(message, Failed):
                raise PageError(message.message)
            yield message
    except Error as error:
        # How ``spaces`` says that the quota is used up or that no GPU is free.
        raise PageError(_TAG.sub("", str(error.message))) from error


_services: dict[str, "PageService"] = {}
"""Of the forked process, which may be used again: it keeps its models."""


def _do(blueprint: Blueprint, task: Any) -> Iterator[Any]:
    """The forked process's part: the job as anywhere else, by a service that finds its GPU as anywhere else."""
    from demo.service import PageService

    if blueprint.preset not in _services:
        environment = replace(blueprint.environment, place="own machine")
        _services[blueprint.preset] = PageService(
            preset=blueprint.preset, store=blueprint.store, environment=environment
        )
    yield StepReport(phase="load")
    try:
        yield from _services[blueprint.preset].run_job(task)
    except PageError as error:
        yield Failed(message=str(error))


def _borrowed(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """``spaces.GPU`` on ZeroGPU; ``spaces`` looks for a marked function when the page starts, so at import time."""
    if read_place() != "ZeroGPU":
        return function
    import spaces

    return spaces.GPU(duration=estimate)(function)


_on_gpu = _borrowed(_do)
