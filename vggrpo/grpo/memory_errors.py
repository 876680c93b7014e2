"""Out of memory in a training becomes one line: in which phase, and which setting to lower.

CUDA and MPS raise ``torch.OutOfMemoryError``, Python ``MemoryError``; the CPU's allocator and the collectives raise a
plain ``RuntimeError``, known by its text.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vggrpo.grpo.config import GrpoConfig
from vggrpo.runtime.errors import UserError

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def naming_the_setting(phase: str, config: GrpoConfig) -> Iterator[None]:
    """Raise a UserError for running out of memory within it; other errors pass."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        # The traceback's frames would keep every tensor of the phase alive.
        error.__traceback__ = None
        raise UserError(
            f"out of memory in {_NAMES.get(phase, phase)}: {memory_advice(phase, config)}. The last checkpoint is "
            "kept; `python -m vggrpo plan` says what fits."
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def memory_advice(phase: str, config: GrpoConfig) -> str:
    """What to change so that ``phase`` needs less, the first choice first: only what is not at its least already."""
    advice = [text for text in _advice(phase, config) if text]
    return " or ".join(advice[:2])


def _advice(phase: str, config: GrpoConfig) -> Iterator[str]:
    if phase in _JUDGING:
        yield from _judging_advice(config)
    if phase in _DRAWING:
        if phase == "update" and not config.gradient_checkpointing:
            yield "switch --gradient-checkpointing on"
        if config.micro_batch > 1:
            yield f"give a lower --micro-batch than {config.micro_batch}"
        guided = max(config.guidance, config.evaluation_guidance) > 1.0
        if guided and config.guidance_passes == "together":
            yield "give --guidance-passes apart"
    if phase == "samples":
        yield "give --sample-every 0"
    if phase == "refresh":
        yield "give --refresh-lgm 0"
    yield "give smaller --height, --width or --frames (for presets that take them)"


def _judging_advice(config: GrpoConfig) -> Iterator[str]:
    if config.reward_batch > 1:
        yield f"give a lower --reward-batch than {config.reward_batch}"
    if config.reward_space == "rgb" and config.objective == "grpo":
        yield "give --reward-space latent"
    if config.dense_frames is None or config.dense_frames > 1:
        yield "give --dense-frames 1"


_NAMES = {
    "guard": "the rollout of the motion guard",
    "evaluate": "the evaluation",
    "refresh": "the refresh of the judge",
}
_NAMES |= {"rollout": "the rollout", "reward": "the reward", "update": "the update", "samples": "the sample videos"}
_NAMES |= {"load": "loading the models", "rank": "the ranking of videos", "clips": "the encoding of clips"}
_JUDGING = {"guard", "reward", "evaluate", "rank"}
_DRAWING = {"rollout", "update", "guard", "evaluate", "samples"}
