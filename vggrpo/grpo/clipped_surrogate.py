"""GRPO's loss of one window step: clipped surrogate plus KL to the reference policy.

    ρ = exp(log π_θ − log π_old)          Â clipped to ±advantage_clip
    L = max(−Â ρ, −Â clip(ρ, 1 − ε, 1 + ε)) + β KL

    velocity KL   mean (v_θ − v_ref)²                 recommended by Flow-GRPO's author
    gaussian KL   mean (μ_θ − μ_ref)² / 2s²           exact, per dimension, of two steps of equal spread

RatioNorm (GRPO-Guard), for δ = μ_θ − μ_old: under the old policy log ρ has mean −w mean δ² and standard deviation
2 w s rms(δ)/√D, w being the factor of −‖x′ − μ‖²/D in the log-probability (1/2s², or 1 for CPS), over the D dimensions
that the log-probability counts. Then

    ρ = exp[(log π_θ − log π_old + w mean δ²) / 2ws]      and the surrogate is divided by |Δ|

has unbiased exponents of spread rms(δ)/√D at every step, and a per-step gradient that does not depend on s. For
Gaussian log-probabilities 1/2ws is s, GRPO-Guard's own formula. The bias is each sample's own; gradients flow through
it, as in the published code. Clip ranges are then about 2e-6 instead of 1e-3.

All functions return one value a sample, so that the caller may mask and weight before taking the mean.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.policy.transitions import StepResult
from vggrpo.runtime.errors import UserError

KlKind = Literal["velocity", "gaussian", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurrogateSettings:
    """The paper's values; with ``ratio_norm`` take a ``clip_range`` near 2e-6."""

    clip_range: float = 1e-3
    kl: KlKind = "velocity"
    kl_weight: float = 0.004
    ratio_norm: bool = False
    advantage_clip: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        if not 0.0 < self.clip_range < 1.0:
            raise UserError(f"The clip range must lie between 0 and 1, not {self.clip_range:g}.")
        if not self.advantage_clip > 0.0:
            raise UserError(f"The advantage clip must be positive, not {self.advantage_clip:g}.")
        if not self.kl_weight >= 0.0:
            raise UserError(f"The KL weight must be 0 or more, not {self.kl_weight:g}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OldStep:
    """A window step under the policy that drew it, as a ``Rollout`` holds it; members as in the ``StepResult``."""

    log_prob: Float[Tensor, " B"]
    mean: Float[Tensor, "B C T h w"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surrogate:
    """Loss a sample, and whether clipping took its gradient."""

    loss: Float[Tensor, " B"]
    clipped: Bool[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """``loss`` [B] has the graph; the rest is detached, for logging. ``ratio`` is the one that was clipped."""

    loss: Float[Tensor, " B"]
    ratio: Float[Tensor, " B"]
    clipped: Bool[Tensor, " B"]
    kl: Float[Tensor, " B"]


def step_loss(
    new: StepResult,
    old: OldStep,
    advantages: Float[Tensor, " B"],
    *,
    reference: StepResult | None,
    settings: SurrogateSettings,
) -> StepLoss:
    """Everything of one step, one value a sample. ``reference`` may be None where the KL is not asked for.

    Raises ValueError when a weighted KL lacks its reference.
    """
    ratio = ratio_norm(new, old) if settings.ratio_norm else torch.exp(new.log_prob - old.log_prob)
    surrogate = clipped_surrogate(ratio, advantages, settings=settings)
    policy = surrogate.loss / abs(new.delta) if settings.ratio_norm else surrogate.loss
    kl = _kl(new, reference, settings)
    return StepLoss(
        loss=policy + settings.kl_weight * kl,
        ratio=ratio.detach(),
        clipped=surrogate.clipped,
        kl=kl.detach(),
    )


def clipped_surrogate(
    ratio: Float[Tensor, " B"], advantages: Float[Tensor, " B"], *, settings: SurrogateSettings
) -> Surrogate:
    """max(−Â ρ, −Â clip(ρ, 1 − ε, 1 + ε)): no gradient once ρ has left the range in the direction that Â asks for."""
    bounded = advantages.to(ratio).clamp(-settings.advantage_clip, settings.advantage_clip)
    free = -bounded * ratio
    held = -bounded * ratio.clamp(1.0 - settings.clip_range, 1.0 + settings.clip_range)
    return Surrogate(loss=torch.maximum(free, held), clipped=(held > free).detach())


def ratio_norm(new: StepResult, old: OldStep) -> Float[Tensor, " B"]:
    """GRPO-Guard's ratio: free of bias, and of the same spread at every step; see the module's text."""
    moved = new.mean_square(new.mean - old.mean)
    return torch.exp((new.log_prob - old.log_prob + new.precision * moved) / (2.0 * new.precision * new.std))


def velocity_kl(velocity: Float[Tensor, "B C T h w"], reference: Float[Tensor, "B C T h w"]) -> Float[Tensor, " B"]:
    """mean (v_θ − v_ref)² over dimensions; gradients flow into ``velocity`` only."""
    return (velocity - reference.detach()).square().flatten(1).mean(1)


def gaussian_kl(
    mean: Float[Tensor, "B C T h w"], reference: Float[Tensor, "B C T h w"], *, std: float
) -> Float[Tensor, " B"]:
    """mean (μ_θ − μ_ref)² / 2s² over dimensions: KL of N(μ_θ, s²) from N(μ_ref, s²), per dimension."""
    return (mean - reference.detach()).square().flatten(1).mean(1) / (2.0 * std**2)


def _kl(new: StepResult, reference: StepResult | None, settings: SurrogateSettings) -> Float[Tensor, " B"]:
    if settings.kl == "none" or settings.kl_weight == 0.0:
        return torch.zeros_like(new.log_prob)
    if reference is None:
        raise ValueError(f"{settings.kl} KL needs the reference policy's step")
    if settings.kl == "velocity":
        return velocity_kl(new.velocity, reference.velocity)
    return gaussian_kl(new.mean, reference.mean, std=new.std)
