"""Test-time reward guidance: steer a sample towards a reward while it is denoised, without training anything.

    ṽ(z_t) = v(z_t) − s · t / (1 − t) · ∇_{z_t} r(ẑ_0(z_t))        ẑ_0 = z_t − t v(z_t)

Why this sign and factor. On the path z_t = (1 − t) z_0 + t z_1 with v = E[z_1 − z_0 | z_t], Gaussian z_1 gives

    ∇ log p_t(z_t) = −E[z_1 | z_t] / t = −(z_t + (1 − t) v) / t,      so      v = −(z_t + t ∇ log p_t(z_t)) / (1 − t).

Samples are wanted from p(z_0) · exp(s r(z_0)). Its score at time t is ∇ log p_t + ∇ log E[exp(s r(z_0)) | z_t], about
∇ log p_t + s ∇_{z_t} r(ẑ_0); for Gaussian data and a linear reward the two are equal. Put into the line above, the
velocity changes by −s · t / (1 − t) · ∇ r. Denoising steps have Δt < 0, so the sample moves along +∇ r.

The gradient goes through the transformer (ẑ_0 depends on z_t through v too) and through whatever the reward reads: Φ_g
and the rewards are handed in as one function, for this part of the figure does not know the others.

Three limits keep a step sane; they are ours, no limit is public. t / (1 − t) is clamped, because it diverges at pure
noise. The correction is clipped to a share of ‖v‖, because a reward's gradient may be steep. A video whose reward or
gradient is not finite is left unguided at that step, and counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.policy.sampling import Conditions, guided_velocity, integrate, starting_latents
from vggrpo.policy.schedule import noise_grid
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

MAX_SCALE = 1e6

Reward = Callable[[Latents], Float[Tensor, " B"]]
"""Latents to one number a video, differentiable; NaN where a video cannot be judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardGuidance:
    """How strongly and how often a reward steers. Raises a UserError for what cannot be."""

    scale: float = 30.0
    """s, the weight of the reward in the target p(z_0) · exp(s r(z_0)); 0 is off."""
    every: int = 2
    """Steps n, 2 n, 3 n … are guided."""
    max_factor: float = 4.0
    """t / (1 − t) is clamped to this; 4 is reached at t = 0.8."""
    max_share: float = 0.05
    """The correction's norm is clipped to this share of the velocity's, video by video."""

    def __post_init__(self) -> None:
        """Refuse what cannot guide."""
        if not (math.isfinite(self.scale) and 0 <= self.scale <= MAX_SCALE):
            raise UserError(f"The reward guidance scale is {self.scale}; give 0 (off) to {MAX_SCALE:g}.")
        if self.every < 1:
            raise UserError(f"Reward guidance every {self.every} steps is impossible; give a whole number from 1.")
        for name, value in (("max_factor", self.max_factor), ("max_share", self.max_share)):
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"Reward guidance's {name} is {value}; give a number above 0.")

    def is_due(self, index: int) -> bool:
        """Whether the step of this index (from 0) is guided. The first ones, mostly noise, are so only at n = 1."""
        return self.scale > 0 and (index + 1) % self.every == 0

    def factor(self, t: float) -> float:
        """t / (1 − t), clamped."""
        return self.max_factor if t >= 1 else min(t / (1 - t), self.max_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardGuide:
    """A reward and how it steers."""

    reward: Reward
    settings: RewardGuidance


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedStep:
    """ṽ of one step. ``is_guided`` is False where reward or gradient are not finite: there ṽ = v to the bit."""

    velocity: Float[Tensor, "B C T h w"]
    is_guided: Bool[Tensor, " B"]
    is_clipped: Bool[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceCounts:
    """What happened at the steps that were due, added up over steps and videos."""

    guided: int
    """Corrected by the reward's gradient."""
    clipped: int
    """Of those, with a correction as large as ``max_share`` allows."""
    skipped: int
    """Left as they were: reward or gradient were not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidedSample:
    """Latents x_0 and what the guidance did on the way."""

    latents: Latents
    counts: GuidanceCounts


def sample_guided(
    transformer: WanTransformer3DModel,
    noise: Float[Tensor, "B C T h w"],
    conditions: Conditions,
    *,
    guide: RewardGuide,
    steps: int,
    shift: float,
    on_step: Callable[[int, int], None] | None = None,
) -> GuidedSample:
    """``sample_ode`` with a reward that steers; at scale 0 the same latents to the bit.

    A guided step costs a gradient through the transformer and the reward, about three times their time, and the memory
    of both graphs; the other steps cost what they always do.
    """
    done: list[GuidedStep] = []

    def velocity(latents: Float[Tensor, "B C T h w"], t: float, index: int) -> Float[Tensor, "B C T h w"]:
        if not guide.settings.is_due(index):
            return guided_velocity(transformer, latents, t, conditions)
        step = reward_guided_velocity(transformer, latents, t, conditions, guide=guide)
        done.append(step)
        return step.velocity

    with torch.no_grad():
        start = starting_latents(noise, conditions)
        latents = integrate(velocity, start, grid=noise_grid(steps, shift=shift), on_step=on_step)
    return GuidedSample(latents=latents, counts=_count(done))


def reward_guided_velocity(
    transformer: WanTransformer3DModel,
    latents: Float[Tensor, "B C T h w"],
    t: float,
    conditions: Conditions,
    *,
    guide: RewardGuide,
) -> GuidedStep:
    """ṽ = v − s · factor(t) · ∇ r(ẑ_0), clipped; a given first frame is never touched. The result has no graph."""
    with torch.enable_grad():
        point = latents.detach().clone().requires_grad_()
        velocity = guided_velocity(transformer, point, t, conditions)
        value = guide.reward(Latents(tensor=point - t * velocity))
        gradient = _gradient(value, point)
    velocity = velocity.detach()
    if conditions.first_frame is not None:
        gradient[:, :, 0] = 0.0
    is_usable = value.detach().isfinite() & gradient.flatten(1).isfinite().all(dim=1)
    correction = guide.settings.scale * guide.settings.factor(t) * gradient
    limit = guide.settings.max_share * velocity.flatten(1).norm(dim=1)
    size = correction.flatten(1).norm(dim=1)
    is_clipped = is_usable & (size > limit)
    shrink = torch.where(is_clipped, limit / size, 1.0)
    guided = velocity - shrink.view(-1, 1, 1, 1, 1) * correction
    return GuidedStep(
        velocity=torch.where(is_usable.view(-1, 1, 1, 1, 1), guided, velocity),
        is_guided=is_usable,
        is_clipped=is_clipped,
    )


def _gradient(value: Float[Tensor, " B"], point: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B C T h w"]:
    """∇ of each video's reward in its own latents; zero where the reward is NaN, unless NaN comes back through it."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    # A NaN in the sum would leave no video a gradient.
    total = torch.where(value.isfinite(), value, 0.0).sum()
    return torch.autograd.grad(total, point)[0]


def _count(steps: list[GuidedStep]) -> GuidanceCounts:
    """Sums over steps and videos."""
    return GuidanceCounts(
        guided=sum(int(step.is_guided.sum()) for step in steps),
        clipped=sum(int(step.is_clipped.sum()) for step in steps),
        skipped=sum(int((~step.is_guided).sum()) for step in steps),
    )
