"""``--refresh-lgm``: re-align Φ_g with Φ on freshly generated videos, so that generator and judge improve in turn.

Φ_g was aligned on the base model's latents. As the policy moves, its latents drift away from those, and a judge that
errs there would be learnt from. A refresh decodes a few videos of the present policy, reads them with the frozen Φ, and
trains Φ_g for a few steps on the difference (the alignment loss of figure (a)). Videos of held-out prompts measure that
difference before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels, Refreshable
from vggrpo.grpo.processes import Processes
from vggrpo.grpo.prompts import PromptSets
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latent_geometry.train import clip_losses
from vggrpo.policy.sampling import draw_noise, sample_ode
from vggrpo.runtime.errors import UserError

_STEP_STREAM, _CLIP_STREAM = 0x4EF4, 0x4EF5
_GRADIENT_CLIP = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RefreshResult:
    """Alignment error on the held-out videos, before and after."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Refresher:
    """Refreshes the judge of a training. Every process does the same, and then takes the main one's weights."""

    config: GrpoConfig
    models: GrpoModels
    prompts: PromptSets
    processes: Processes

    def parameters(self) -> dict[str, nn.Parameter]:
        """What refreshes change, for the checkpoint; empty without refreshes. Raises a UserError without a Φ_g."""
        if not self.config.refresh_lgm:
            return {}
        if self.models.refreshable is None:
            raise UserError("--refresh-lgm re-aligns the latent geometry model, but this reward does not use one.")
        return self.models.refreshable.parameters()

    def run(self, iteration: int) -> RefreshResult:
        """Generate videos with the policy as it is now, and train the judge on them."""
        judge, config = self.models.refreshable, self.config
        assert judge is not None, "parameters() was asked first"
        tested = max(config.refresh_clips // 4, 1)
        trained = config.refresh_clips - tested
        first = iteration * config.refresh_clips
        prompts = [self.prompts.of_group(first + number, seed=config.seed) for number in range(trained)]
        held_out = [self.prompts.evaluation[number % len(self.prompts.evaluation)] for number in range(tested)]
        result = refresh(
            judge,
            [self._clip(prompt, iteration, number) for number, prompt in enumerate(prompts)],
            held_out=[self._clip(prompt, iteration, trained + number) for number, prompt in enumerate(held_out)],
            steps=config.refresh_steps,
            learning_rate=config.refresh_learning_rate,
            seed=(config.seed, iteration),
        )
        # Hardware may have rounded differently.
        self.processes.make_equal(judge.parameters().values())
        return result

    @torch.no_grad()
    def _clip(self, prompt: str, iteration: int, number: int) -> AlignedClip:
        """A video of the present policy, as latents and as decoded images."""
        config, models = self.config, self.models
        rng = np.random.default_rng([config.seed, iteration, number, _CLIP_STREAM])
        noise = draw_noise((1, *models.latent_shape), seed=int(rng.integers(2**62)), device=models.device)
        conditions = models.conditions(prompt, guidance=config.evaluation_guidance, together=config.guidance_together)
        latents = sample_ode(
            models.transformer, noise, conditions, steps=config.evaluation_steps, shift=config.flow_shift
        )
        frames = models.decode(latents).to(models.device)
        return AlignedClip(latents=latents, images=frames.permute(0, 1, 4, 2, 3).float() / 255.0)


def refresh(
    models: Refreshable,
    clips: Sequence[AlignedClip],
    *,
    held_out: Sequence[AlignedClip],
    steps: int,
    learning_rate: float,
    seed: tuple[int, int],
) -> RefreshResult:
    """Train Φ_g for ``steps`` steps of one clip each. ``seed`` is (run, iteration); nothing else is remembered."""
    parameters = models.parameters()
    before = alignment_error(models, held_out)
    optimiser = torch.optim.AdamW(list(parameters.values()), lr=learning_rate, weight_decay=0.0)
    rng = np.random.default_rng([*seed, _STEP_STREAM])
    for parameter in parameters.values():
        parameter.requires_grad = True
    try:
        for _ in range(steps):
            _step(models, clips[int(rng.integers(len(clips)))], optimiser=optimiser, rng=rng)
    finally:
        for parameter in parameters.values():
            parameter.requires_grad = False
            parameter.grad = None
    return RefreshResult(before=before, after=alignment_error(models, held_out))


@torch.no_grad()
def alignment_error(models: Refreshable, clips: Sequence[AlignedClip]) -> float:
    """Mean alignment loss over videos, on all their frames."""
    errors = [float(_loss(models, clip, frames=torch.arange(clip.images.shape[1]))) for clip in clips]
    return sum(errors) / len(errors)


def _step(
    models: Refreshable, clip: AlignedClip, *, optimiser: torch.optim.Optimizer, rng: np.random.Generator
) -> None:
    count = clip.images.shape[1]
    chosen = rng.choice(count, size=min(models.dense_frames, count), replace=False)
    loss = _loss(models, clip, frames=torch.from_numpy(chosen).sort().values)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(list(models.parameters().values()), _GRADIENT_CLIP)
    # A clip that Φ itself cannot read must not reach the judge.
    if bool(torch.isfinite(norm)):
        optimiser.step()


def _loss(models: Refreshable, clip: AlignedClip, *, frames: Tensor) -> Tensor:
    device = next(cast(nn.Module, models.latent_geometry).parameters()).device
    frames = frames.to(device)
    return clip_losses(models.latent_geometry, clip, teacher=models.geometry, frames=frames, weights=models.weights)[
        "loss"
    ]
