"""What the trainer, an objective and the learner say to each other.

An objective says what an iteration learns from (a ``Lesson``); the learner turns it into optimiser steps; the trainer
does everything around that, the same for every objective. A lesson is cut into micro-batches that go through the
transformer as a whole, some of them several times (``passes``), and each knows its own loss.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.prompts import PromptSets
from vggrpo.policy.sampling import Conditions
from vggrpo.runtime.seeds import derived_seed

_GROUP_STREAM = 0x6720


@dataclass(frozen=True, kw_only=True)
class PassLoss:
    """One pass of a micro-batch: ``loss`` [B] has the graph, what is ``logged`` [B] by metric's name is detached."""

    loss: Float[Tensor, " B"]
    logged: Mapping[str, Float[Tensor, " B"]]
    ratio: Float[Tensor, " B"] | None = None
    """New to old probability, where the objective has one: 1 before the first update, or nothing may be learnt."""


@runtime_checkable
class MicroBatch(Protocol):
    """A part of a lesson. B counts what has a loss of its own: a video, or a pair of videos."""

    @property
    def number(self) -> int:
        """Its number in the iteration: micro-batches are dealt out to the iteration's updates by it."""
        ...

    @property
    def usable(self) -> Bool[Tensor, " B"]:
        """What is trained on; the others are left out of the mean."""
        ...

    @property
    def passes(self) -> int:
        """How often it goes through the transformer, equally often on every process."""
        ...

    def loss(self, transformer: WanTransformer3DModel, index: int) -> PassLoss:
        """Pass ``index`` of ``passes`` under the present weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one iteration learns from, on one process."""

    batches: Sequence[MicroBatch]
    """As many on every process, and at least one."""
    logged: tuple[str, ...]
    """The metrics that the batches' losses log."""
    metrics: Mapping[str, float]
    """What was found while the lesson was made, over all processes."""
    has_ratio: bool = False
    """Whether the batches' losses have a ratio."""


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What an objective works with."""

    config: GrpoConfig
    models: GrpoModels
    prompts: PromptSets
    processes: Processes
    phase: Callable[[str], AbstractContextManager[None]]
    """Names and times a part of the work, for whoever watches."""

    @property
    def groups(self) -> range:
        """This process's groups of an iteration."""
        return self.processes.share(self.config.groups)

    def prompt(self, iteration: int, group: int) -> str:
        """The prompt of a group of an iteration."""
        number = (iteration - 1) * self.config.groups + group
        return self.prompts.of_group(number, seed=self.config.seed)

    def conditions(self, iteration: int, group: int) -> Conditions:
        """What a group's videos are conditioned on."""
        return self.models.conditions(self.prompt(iteration, group), guidance=self.config.guidance)

    def seed(self, iteration: int) -> int:
        """The seed of an iteration's videos, whatever is learnt from them."""
        return derived_seed(_GROUP_STREAM, self.config.seed, iteration)


@runtime_checkable
class Objective(Protocol):
    """What is learnt. Every random number of it is derived from (seed, iteration, group, member)."""

    def texts(self, iteration: int) -> Iterable[str]:
        """The prompts that this process conditions on in an iteration (from 1)."""
        ...

    def prepare(self, iterations: range) -> None:
        """Make ready what these iterations will need, before the text encoder and the VAE leave memory."""
        ...

    def lesson(self, iteration: int) -> Lesson:
        """What an iteration learns from. The adapter is on, and is the one that is trained."""
        ...

    def why_nothing(self, metrics: Mapping[str, float]) -> str | None:
        """Why an iteration's lesson was empty; None where the lesson is not to blame."""
        ...

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """An iteration's numbers for the log, the most telling ones first."""
        ...
