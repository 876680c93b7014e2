"""The flow-matching error of clips, which ``flow_sft`` lowers and ``flow_dpo`` compares.

    x_t = (1 − t) x_0 + t x_1        error = mean ‖v(x_t, t, c) − (x_1 − x_0)‖²        over a clip's dimensions

t is drawn as in ``pretrain video``: evenly spread over a batch, then shifted like the sampler's grid. The prompt is the
only condition, without guidance. A given first frame stays clean at t = 0 and is no part of the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from vggrpo.policy.backbone import predict_velocity
from vggrpo.policy.sampling import Conditions, draw_noise, starting_latents
from vggrpo.policy.schedule import add_noise, shift_noise
from vggrpo.runtime.seeds import derived_seed

_FRACTION_STREAM, _NOISE_STREAM = 0xF7AC, 0x4015


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisyClips:
    """Clips with noise in them, and the velocity that leads back. T frames; ``first_given`` marks a clean first one."""

    noisy: Float[Tensor, "B C T h w"]
    target: Float[Tensor, "B C T h w"]
    fraction: Float[Tensor, "B #T"]
    first_given: bool

    def velocity(self, transformer: WanTransformer3DModel, conditions: Conditions) -> Float[Tensor, "B C T h w"]:
        """What the model makes of them; guidance is not asked."""
        return predict_velocity(transformer, self.noisy, self.fraction, conditions.text)

    def error(self, velocity: Float[Tensor, "B C T h w"]) -> Float[Tensor, " B"]:
        """Mean squared error of a velocity over the frames that are to be made."""
        return self.distance(velocity, self.target)

    def distance(self, velocity: Float[Tensor, "B C T h w"], other: Float[Tensor, "B C T h w"]) -> Float[Tensor, " B"]:
        """Mean squared distance of two velocities over the same frames."""
        squared = (velocity - other).square()
        return (squared[:, :, 1:] if self.first_given else squared).flatten(1).mean(1)


def noisy_clips(
    clean: Float[Tensor, "B C T h w"],
    *,
    noise: Float[Tensor, "B C T h w"],
    fraction: Float[Tensor, " B"],
    conditions: Conditions,
) -> NoisyClips:
    """Clips at one noise fraction each."""
    target = noise - clean
    if conditions.first_frame is None:
        noisy = add_noise(clean, noise, fraction[:, None, None, None, None])
        return NoisyClips(noisy=noisy, target=target, fraction=fraction[:, None], first_given=False)
    by_frame = fraction[:, None].repeat(1, clean.shape[2])
    by_frame[:, 0] = 0.0
    noisy = starting_latents(add_noise(clean, noise, by_frame[:, None, :, None, None]), conditions)
    return NoisyClips(noisy=noisy, target=target, fraction=by_frame, first_given=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseDraws:
    """The noise of ``count`` clips of a group in an iteration, ``draws`` times each.

    A function of (seed, iteration, group, clip, draw) alone: neither micro-batches nor processes change it.
    """

    seed: int
    iteration: int
    group: int
    count: int
    draws: int
    shift: float

    def fractions(self, clips: Sequence[int], *, draw: int) -> Float[Tensor, " B"]:
        """Noise fractions t of some clips in one draw.

        The group's ``count`` × ``draws`` fractions cut (0, 1) into equal parts before they are shifted, and a clip's
        own are 1 / ``draws`` apart: less noise in the gradient than independent draws.
        """
        generator = torch.Generator().manual_seed(derived_seed(_FRACTION_STREAM, self.seed, self.iteration, self.group))
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        places = draw / self.draws + torch.tensor(clips, dtype=torch.float64) / (self.count * self.draws)
        return shift_noise((start + places) % 1.0, shift=self.shift).float()

    def noise(
        self, clips: Sequence[int], *, draw: int, shape: Sequence[int], device: torch.device
    ) -> Float[Tensor, "B C T h w"]:
        """x_1 of some clips in one draw."""
        numbers = (_NOISE_STREAM, self.seed, self.iteration, self.group)
        seeds = [derived_seed(*numbers, clip, draw) for clip in clips]
        return torch.cat([draw_noise((1, *shape), seed=seed, device=device) for seed in seeds])


def without_guidance(conditions: Conditions) -> Conditions:
    """Conditions for a flow-matching error."""
    return replace(conditions, guidance=1.0, negative=None)
