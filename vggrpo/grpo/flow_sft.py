"""``--objective sft``: supervised fine-tuning on true clips with their captions, the plainest thing to compare with.

    loss = mean ‖v_θ(x_t, t, c) − (x_1 − x_0)‖²

An iteration takes as many clips as the other objectives draw videos (groups × group size), each at ``noise_draws``
noise fractions. Nothing is sampled and nothing judged.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.grpo.flow_matching import NoiseDraws, noisy_clips, without_guidance
from vggrpo.grpo.lesson import Lesson, PassLoss, TrainingContext
from vggrpo.grpo.models import TrainingClips
from vggrpo.policy.rollout import micro_batches
from vggrpo.policy.sampling import Conditions


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Some clips of a group; a pass is one noise fraction of each."""

    conditions: Callable[..., Conditions]
    """``GrpoModels.conditions``: embeddings come when they are needed, not a lesson's all at once."""
    clean: Float[Tensor, "B C T h w"]
    captions: tuple[str, ...]
    usable: Bool[Tensor, " B"]
    draws: NoiseDraws
    members: slice
    number: int

    @property
    def passes(self) -> int:
        """Noise fractions of a clip."""
        return self.draws.draws

    def loss(self, transformer: WanTransformer3DModel, index: int) -> PassLoss:
        """The flow-matching error at draw ``index``."""
        device = transformer.device
        members = range(self.draws.count)[self.members]
        conditions = without_guidance(self.conditions(*self.captions, guidance=1.0))
        noisy = noisy_clips(
            self.clean.to(device),
            noise=self.draws.noise(members, draw=index, shape=self.clean.shape[1:], device=device),
            fraction=self.draws.fractions(members, draw=index).to(device),
            conditions=conditions,
        )
        return PassLoss(loss=noisy.error(noisy.velocity(transformer, conditions)), logged={})


@dataclass(frozen=True, kw_only=True)
class FlowSft:
    """Supervised fine-tuning; see the module's text. Raises a ValueError without clips."""

    context: TrainingContext

    def __post_init__(self) -> None:
        """Clips are what it learns from."""
        _ = self.clips

    @property
    def clips(self) -> TrainingClips:
        """The clips to imitate."""
        if self.context.models.clips is None:
            raise ValueError("supervised fine-tuning needs clips: these models were loaded without")
        return self.context.models.clips

    def texts(self, iteration: int) -> Iterable[str]:
        """The captions of an iteration's clips."""
        return [caption for group in self.context.groups for caption in self._captions(iteration, group)]

    def prepare(self, iterations: range) -> None:
        """Encode what these iterations will meet; a clip that was encoded before costs nothing."""
        with self.context.phase("clips"):
            for iteration in iterations:
                for group in self.context.groups:
                    self._clean(iteration, group)
            self.context.models.release_decoder()

    def lesson(self, iteration: int) -> Lesson:
        """An iteration's clips."""
        context = self.context
        with context.phase("clips"):
            batches = [batch for group in context.groups for batch in self._batches(iteration, group)]
        usable = torch.tensor([float(sum(int(batch.usable.sum()) for batch in batches))], device=context.models.device)
        used = float(context.processes.sum(usable))
        wanted = context.config.groups * context.config.group_size
        return Lesson(batches=batches, logged=(), metrics={"clips/used": used, "clips/unreadable": wanted - used})

    def why_nothing(self, metrics: Mapping[str, float]) -> str | None:
        """No clip."""
        return None if metrics["clips/used"] else "not one clip could be read: look at the videos of --sft-clips"

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """The error."""
        unreadable = metrics["clips/unreadable"]
        counted = f", {unreadable:.0f} unreadable" if unreadable else ""
        return f"flow-matching error {metrics['loss']:.4f} of {metrics['clips/used']:.0f} clips{counted}"

    def _captions(self, iteration: int, group: int) -> tuple[str, ...]:
        """Each caption once, in a new order every time round."""
        config, prompts = self.context.config, self.context.prompts
        first = self._first_number(iteration, group)
        return tuple(prompts.of_group(first + member, seed=config.seed) for member in range(config.group_size))

    def _first_number(self, iteration: int, group: int) -> int:
        """How many clips of the run come before a group's."""
        config = self.context.config
        return ((iteration - 1) * config.groups + group) * config.group_size

    def _clean(self, iteration: int, group: int) -> list[Tensor | None]:
        """Latents of a group's clips, None for those that cannot be read."""
        first = self._first_number(iteration, group)
        count = len(self.context.prompts.training)
        found = [
            self.clips.latents(caption, number=(first + member) // count)
            for member, caption in enumerate(self._captions(iteration, group))
        ]
        return [None if latents is None else latents.tensor for latents in found]

    def _batches(self, iteration: int, group: int) -> list[ClipBatch]:
        config, models = self.context.config, self.context.models
        captions, clean = self._captions(iteration, group), self._clean(iteration, group)
        missing = torch.zeros(1, *models.latent_shape)
        stacked = torch.cat([missing if one is None else one.cpu() for one in clean])
        usable = torch.tensor([one is not None for one in clean])
        draws = NoiseDraws(
            seed=config.seed,
            iteration=iteration,
            group=group,
            count=config.group_size,
            draws=config.noise_draws,
            shift=config.flow_shift,
        )
        return [
            ClipBatch(
                conditions=models.conditions,
                clean=stacked[members],
                captions=captions[members],
                usable=usable[members],
                draws=draws,
                members=members,
                number=group + place,
            )
            for place, members in enumerate(micro_batches(config.group_size, config.micro_batch))
        ]
