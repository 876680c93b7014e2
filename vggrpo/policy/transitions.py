"""One denoising step as a Gaussian policy: drawn when no next sample is given, scored when one is.

With noise fraction t, next fraction t′, Δ = t′ − t < 0, and the two ends that a velocity implies,

    x̂_0 = x − t v          x̂_1 = x + (1 − t) v,

every transition here has the unified form

    x′ = μ + s ξ,   ξ ~ N(0, I),   μ = (1 − t′) x̂_0 + (t′ − κ) x̂_1 = (1 − κ) x + (Δ − κ (1 − t)) v

and differs in its standard deviation s and its κ only:

    name       s                                   κ                       default level
    flow_sde   a √(t / (1 − t)) √−Δ                s² / 2t                 a = 0.7   Flow-GRPO (SD3, FLUX)
    linear     a t_1 t √−Δ                         s² / 2t                 a = 1     Flow-GRPO (Wan)
    constant   η √−Δ                               s² / 2t                 η = 0.3   DanceGRPO
    cps        t′ sin(η π/2)                       t′ − √(t′² − s²)        η = 0.8   Coefficients-Preserving Sampling
    ode        0                                   0                       –         Euler

The first three are Euler–Maruyama steps of the reverse-time SDE with the marginals of dx = v dt. Being of first order
they add variance beyond the ideal t′² of the noise, σ²Δ²/t + σ⁴Δ²/4t² with σ = s/√−Δ, which vanishes with the step.
CPS adds none where the video behind x_t is certain; where it is not, a step takes about
(1 − cos(η π/2))² (1 − t)² Var[x_0 | x_t] off, however short it is: CPS is for a window of few steps.

Edges: at t ≥ 1 − 1e-3 flow_sde's denominator takes the grid's t_1 (it would vanish); the step to t′ = 0 is
deterministic in every transition, since noise there would stay in the video, and it is never trained.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from vggrpo.policy.frequencies import low_frequencies
from vggrpo.runtime.errors import UserError

NEARLY_PURE_NOISE = 1.0 - 1e-3
"""Noise fractions from here on are "t = 1" to flow_sde. A bound, not equality: some samplers start at 1 − 1e-6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Where a step starts (``t``) and ends (``t_next``), and the grid's second point ``t_1``."""

    t: float
    t_next: float
    t_1: float

    @property
    def delta(self) -> float:
        """Δ = t′ − t, negative."""
        return self.t_next - self.t


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Standard deviation s of a step, and the κ that keeps the marginal's variance."""

    std: float
    kappa: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """A plug-in: how much noise a step adds.

    ``noise`` is the level (the default one in ``TRANSITIONS``); 0 makes every transition the ODE. ``max_noise`` is the
    largest level with a meaning.
    ``drops_constants``: the log-probability is −‖x′ − μ‖²/D, without 1/2s² and the normalisation. CPS is defined that
    way: its s falls to zero along the grid, and 1/2s² would let the last steps outweigh all others.
    ``scored_cells``: the log-probability counts that many of the lowest spatial frequencies of x′ along each axis, all
    if None. The step itself is the same: see ``frequencies``.
    """

    name: str
    summary: str
    noise: float
    spread: Callable[[StepTimes, float], Spread]
    max_noise: float = math.inf
    drops_constants: bool = False
    scored_cells: int | None = None

    def with_noise(self, level: float | None) -> "Transition":
        """The same transition at another level; None keeps the default. Raises a UserError for a senseless level."""
        if level is None:
            return self
        if not 0.0 <= level <= self.max_noise:
            allowed = "0 or more" if math.isinf(self.max_noise) else f"in [0, {self.max_noise:g}]"
            raise UserError(f"The noise level of transition {self.name!r} must be {allowed}, not {level:g}.")
        return replace(self, noise=level)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """One step of a batch. ``log_prob`` is the MEAN over dimensions in fp32; NaN for a drawn step without noise.

    The mean makes the ratio the D-th root of the true importance ratio, as in all published recipes; this is why
    clip ranges are small. ``precision`` w is the factor of −‖x′ − μ‖²/D in ``log_prob``: 1/2s², or 1 where the
    transition drops its constants. ``delta`` is Δ < 0. ``velocity`` is what the step was made from. The D dimensions
    are those that the transition scores: all, or the lowest ``scored_cells`` frequencies.
    """

    velocity: Float[Tensor, "B C T h w"]
    mean: Float[Tensor, "B C T h w"]
    next: Float[Tensor, "B C T h w"]
    log_prob: Float[Tensor, " B"]
    std: float
    precision: float
    delta: float
    scored_cells: int | None = None

    def mean_square(self, difference: Float[Tensor, "B C T h w"]) -> Float[Tensor, " B"]:
        """Mean square over the dimensions that ``log_prob`` is a mean over."""
        return low_frequencies(difference, self.scored_cells).square().flatten(1).mean(1)


def take_step(
    transition: Transition,
    velocity: Float[Tensor, "B C T h w"],
    latents: Float[Tensor, "B C T h w"],
    *,
    grid: Float[Tensor, " N1"],
    index: int,
    next_latents: Float[Tensor, "B C T h w"] | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> StepResult:
    """Step ``index`` of ``grid``: drawn when ``next_latents`` is None, else the given sample is scored.

    Both ways share every operation on the mean and the log-probability, so that a replay with the same velocity gives
    the same bits. ``generator`` may be one a sample; CPU generators make the same noise on every device.

    Args:
        transition: at the noise level to use, see ``Transition.with_noise``.
        velocity: v at ``latents``, fp32; gradients flow through it.
        latents: x at noise fraction ``grid[index]``.
        grid: float64, falling from 1 to 0.
        index: of the step, 0 … N − 1.
        next_latents: x′ to score; no gradient flows into it.
        generator: source of ξ.

    Raises:
        ValueError: a given sample cannot be scored where the step adds no noise: there is no density.
    """
    times = StepTimes(t=float(grid[index]), t_next=float(grid[index + 1]), t_1=float(grid[1]))
    # Noise in the step that ends at 0 would stay in the video.
    spread = Spread(std=0.0, kappa=0.0) if times.t_next <= 0.0 else transition.spread(times, transition.noise)
    kappa, std = spread.kappa, spread.std
    mean = (1.0 - kappa) * latents.float() + (times.delta - kappa * (1.0 - times.t)) * velocity.float()
    if next_latents is not None:
        if std == 0.0:
            raise ValueError(f"step {index} of {transition.name} adds no noise: a sample of it has no density to score")
        following = next_latents.detach().float()
    elif std == 0.0:
        following = mean.detach()
    else:
        noise = randn_tensor(tuple(mean.shape), generator=generator, device=mean.device, dtype=torch.float32)
        following = (mean + std * noise).detach()
    precision = 1.0 if transition.drops_constants else math.inf if std == 0.0 else 0.5 / std**2
    return StepResult(
        velocity=velocity,
        mean=mean,
        next=following,
        log_prob=_log_probability(
            low_frequencies(following - mean, transition.scored_cells),
            std=std,
            drops_constants=transition.drops_constants,
        ),
        std=std,
        precision=precision,
        delta=times.delta,
        scored_cells=transition.scored_cells,
    )


def _log_probability(
    noise: Float[Tensor, "B C T a b"],
    *,
    std: float,
    drops_constants: bool,
) -> Float[Tensor, " B"]:
    """Mean over the dimensions of x′ − μ of its log-density under N(0, s²), or of −(x′ − μ)²; NaN without noise."""
    squares = noise.square().flatten(1).mean(1)
    if std == 0.0:
        return torch.full_like(squares.detach(), math.nan)
    if drops_constants:
        return -squares
    return -squares * (0.5 / std**2) - math.log(std) - 0.5 * math.log(2.0 * math.pi)


def _sde(sigma: float, times: StepTimes) -> Spread:
    """s = σ_t √−Δ and κ = s²/2t: an Euler–Maruyama step of the SDE with diffusion σ_t."""
    std = sigma * math.sqrt(-times.delta)
    return Spread(std=std, kappa=std**2 / (2.0 * times.t))


def _flow_sde(times: StepTimes, level: float) -> Spread:
    remaining = 1.0 - (times.t_1 if times.t >= NEARLY_PURE_NOISE else times.t)
    return _sde(level * math.sqrt(times.t / remaining), times)


def _linear(times: StepTimes, level: float) -> Spread:
    return _sde(level * times.t_1 * times.t, times)


def _constant(times: StepTimes, level: float) -> Spread:
    return _sde(level, times)


def _cps(times: StepTimes, level: float) -> Spread:
    angle = level * math.pi / 2.0
    return Spread(std=times.t_next * math.sin(angle), kappa=times.t_next * (1.0 - math.cos(angle)))


def _ode(_times: StepTimes, _level: float) -> Spread:
    return Spread(std=0.0, kappa=0.0)


_FLOW_SDE = Transition(
    name="flow_sde",
    summary="Flow-GRPO's SDE: strong noise early, but little gradient there; best with ratio normalisation.",
    noise=0.7,
    spread=_flow_sde,
)
_LINEAR = Transition(
    name="linear",
    summary="Flow-GRPO's choice for Wan: noise falls in proportion to t.",
    noise=1.0,
    spread=_linear,
)
_CONSTANT = Transition(
    name="constant",
    summary="DanceGRPO's constant η: the flattest gradient over the steps.",
    noise=0.3,
    spread=_constant,
)
_CPS = Transition(
    name="cps",
    summary="Coefficients-preserving sampling: exactly the right variance at every step, so no grain.",
    noise=0.8,
    spread=_cps,
    max_noise=1.0,
    drops_constants=True,
)
TRANSITIONS: Mapping[str, Transition] = MappingProxyType(
    {transition.name: transition for transition in (_FLOW_SDE, _LINEAR, _CONSTANT, _CPS)}
)
"""Every stochastic transition by name, at its default noise level."""

ODE = Transition(name="ode", summary="Euler steps without noise.", noise=0.0, spread=_ode, max_noise=0.0)
"""The deterministic step, for everything outside the trained window."""
