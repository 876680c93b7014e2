"""Rollout and replay of one group: K videos of one prompt, noisy inside a short window of steps, ODE elsewhere.

Only the window's states are kept, since only its steps have a probability to train. Replay computes a window step
again, with gradients, through the very same functions and in the same micro-batches, so that before the first update
every ratio is 1 to the bit (on one device; batch size changes the rounding of matrix products).

Random numbers depend on (seed, group, member) alone and are drawn on the CPU: neither the micro-batch size nor the
device nor the number of processes changes them.

Image to video: with ``Conditions.first_frame`` the first latent frame is given, not sampled. Then states, means and
log-probabilities are those of the FREE frames, T − 1 of them; ``Rollout.latents`` holds all T.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.policy.adapter import adapter_disabled
from vggrpo.policy.sampling import Conditions, draw_noise, guided_velocity, sample_ode
from vggrpo.policy.schedule import noise_grid
from vggrpo.policy.transitions import ODE, TRANSITIONS, StepResult, Transition, take_step
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.seeds import derived_seed
from vggrpo.types import Latents

StateDtype = Literal["float32", "bfloat16", "float16"]
Members = slice | Int[Tensor, " B"]
"""Which members of a group: one of ``micro_batches`` for the very numbers of the rollout."""

_WINDOW_STREAM, _MEMBER_STREAM, _SHARED_STREAM = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSettings:
    """How groups are sampled. Raises a UserError for settings under which nothing could be trained.

    ``window_range`` [first, end) bounds the steps that may be noisy; a window of ``window_size`` steps is drawn inside
    it once a group. The last step is never among them. ``noise_level`` None is the transition's default.
    With ``mirrored_noise`` members 0 and 1, 2 and 3, … draw opposite noise in the window, so that what is even in it
    cancels from the gradient. ``scored_cells`` as in ``Transition``, ``together`` as in ``Conditions``.
    ``autograd_in_window``: window steps are drawn with autograd on, as they are replayed, because a compiled model is
    another program without it. ``state_dtype`` is what kept states are rounded to BEFORE they are scored and walked on
    from.
    """

    steps: int = 10
    shift: float = 3.0
    guidance: float = 1.0
    transition: str = "constant"
    noise_level: float | None = None
    window_size: int = 3
    window_range: tuple[int, int] = (0, 5)
    same_noise: bool = False
    mirrored_noise: bool = False
    scored_cells: int | None = None
    micro_batch: int = 8
    together: bool = True
    autograd_in_window: bool = False
    state_dtype: StateDtype = "float32"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        first, end = self.window_range
        if self.transition not in TRANSITIONS:
            raise UserError(f"There is no transition {self.transition!r}: choose one of {', '.join(TRANSITIONS)}.")
        if self.policy.noise <= 0.0:
            raise UserError("A noise level of 0 leaves nothing to learn from: give a positive one, or none at all.")
        if self.steps < 2:
            raise UserError(f"Training needs at least 2 denoising steps (the last is never trained), not {self.steps}.")
        if not 0 <= first < end <= self.steps - 1:
            raise UserError(
                f"The window range {first} {end} must lie within 0 {self.steps - 1}: there are {self.steps} "
                "denoising steps, and the last is never trained."
            )
        if not 1 <= self.window_size <= end - first:
            raise UserError(f"A window of {self.window_size} steps does not fit the window range {first} {end}.")
        if self.scored_cells is not None and self.scored_cells < 1:
            raise UserError(f"The probability of a step needs at least 1 scored cell, not {self.scored_cells}.")
        if self.micro_batch < 1:
            raise UserError(f"The micro-batch must hold at least 1 video, not {self.micro_batch}.")
        if not self.shift > 0.0:
            raise UserError(f"The flow shift must be positive, not {self.shift:g}.")

    @property
    def policy(self) -> Transition:
        """The transition inside the window, at its noise level, scored as asked for."""
        return replace(TRANSITIONS[self.transition].with_noise(self.noise_level), scored_cells=self.scored_cells)

    @property
    def grid(self) -> Float[Tensor, " N1"]:
        """t_0 = 1 > … > t_N = 0 in float64."""
        return noise_grid(self.steps, shift=self.shift)

    def applied_to(self, conditions: Conditions) -> Conditions:
        """The conditions with this guidance: one rule for rollout and replay."""
        return replace(conditions, guidance=self.guidance, together=self.together)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One group of K videos and what is needed to replay its window of w steps.

    ``states`` are x_k … x_{k+w} with k = ``window_start``; ``log_prob``, ``mean`` and ``std`` belong to the w steps
    between them, under the policy that drew them. ``seeds`` are those of the members' initial noise. F is T, or T − 1
    with a given first frame.
    """

    latents: Latents
    window_start: int
    states: Float[Tensor, "K W1 C F h w"]
    log_prob: Float[Tensor, "K W"]
    mean: Float[Tensor, "K W C F h w"]
    std: Float[Tensor, " W"]
    group: int
    seeds: tuple[int, ...]

    @property
    def count(self) -> int:
        """K."""
        return self.states.shape[0]

    @property
    def window_size(self) -> int:
        """Steps w that can be replayed."""
        return self.log_prob.shape[1]

    def to(self, device: torch.device) -> "Rollout":
        """The same rollout on another device; ``replay`` brings back what it needs."""
        return replace(
            self,
            latents=Latents(tensor=self.latents.tensor.to(device)),
            states=self.states.to(device),
            log_prob=self.log_prob.to(device),
            mean=self.mean.to(device),
        )


def micro_batches(count: int, size: int) -> tuple[slice, ...]:
    """Members of a group in the batches that ``collect`` runs; replay the same ones."""
    return tuple(slice(start, min(start + size, count)) for start in range(0, count, size))


def draw_window(settings: RolloutSettings, *, group: int, seed: int) -> int:
    """The window's first step: one draw for the whole group, the same on every process that holds part of it."""
    first, end = settings.window_range
    return first + derived_seed(_WINDOW_STREAM, seed, group) % (end - first - settings.window_size + 1)


@torch.no_grad()
def collect(
    transformer: WanTransformer3DModel,
    conditions: Conditions,
    settings: RolloutSettings,
    *,
    shape: tuple[int, int, int, int],
    group: int,
    seed: int,
    count: int,
) -> Rollout:
    """Sample the ``count`` members of one group. Denoising only: no VAE, no reward.

    Args:
        transformer: the policy, adapter on, in evaluation mode.
        conditions: of ONE prompt, batch 1; its ``guidance`` is replaced by that of the settings.
        settings: how to sample.
        shape: C, T, h, w of one video's latents.
        group: the group's integer id.
        seed: of the run and the iteration. Groups and members get seeds of their own from it.
        count: K.

    Raises:
        ValueError: guidance other than 1 without ``conditions.negative``.
    """
    walk = _Walk(
        transformer=transformer,
        conditions=settings.applied_to(conditions),
        settings=settings,
        window_start=draw_window(settings, group=group, seed=seed),
    )
    parts = []
    initial = tuple(_initial_seed(settings, seed=seed, group=group, member=member) for member in range(count))
    streams = [_noise_stream(settings, seed=seed, group=group, member=member) for member in range(count)]
    mirrors = torch.tensor([_is_mirror(settings, member) for member in range(count)])
    for members in micro_batches(count, settings.micro_batch):
        noise = torch.cat([draw_noise((1, *shape), seed=s, device=transformer.device) for s in initial[members]])
        parts.append(walk.run(noise, streams[members], mirrors=mirrors[members]))

    def join(part: Callable[[_Part], Tensor]) -> Tensor:
        return torch.cat([part(p) for p in parts])

    return Rollout(
        latents=Latents(tensor=join(lambda p: p.latents)),
        window_start=walk.window_start,
        states=join(lambda p: p.states),
        log_prob=join(lambda p: p.log_prob),
        mean=join(lambda p: p.mean),
        std=torch.tensor(parts[0].std, dtype=torch.float64),
        group=group,
        seeds=initial,
    )


@torch.no_grad()
def collect_by_ode(
    transformer: WanTransformer3DModel,
    conditions: Conditions,
    settings: RolloutSettings,
    *,
    shape: tuple[int, int, int, int],
    group: int,
    seed: int,
    count: int,
) -> Latents:
    """The same members from the same initial noise as ``collect``, without noise in any step: videos only.

    For objectives that need videos and no probabilities. Arguments and errors as of ``collect``.
    """
    asked = settings.applied_to(conditions)
    parts = []
    initial = [_initial_seed(settings, seed=seed, group=group, member=member) for member in range(count)]
    for members in micro_batches(count, settings.micro_batch):
        noise = torch.cat([draw_noise((1, *shape), seed=s, device=transformer.device) for s in initial[members]])
        some = asked.expanded(len(noise))
        parts.append(sample_ode(transformer, noise, some, steps=settings.steps, shift=settings.shift).tensor)
    return Latents(tensor=torch.cat(parts))


def replay(
    transformer: WanTransformer3DModel,
    rollout: Rollout,
    conditions: Conditions,
    settings: RolloutSettings,
    *,
    step: int,
    members: Members = slice(None),
) -> StepResult:
    """Step ``window_start + step`` again under the present weights, with its graph: the kept sample is scored.

    ``step`` counts within the window, 0 … w − 1. ``members`` should be one of ``micro_batches(K, micro_batch)``;
    any other choice gives the same ratios up to rounding only.
    """
    device = transformer.device
    walk = _Walk(
        transformer=transformer,
        conditions=settings.applied_to(conditions),
        settings=settings,
        window_start=rollout.window_start,
    )
    states = rollout.states[members]
    return walk.score(
        states[:, step].to(device).float(), states[:, step + 1].to(device).float(), index=rollout.window_start + step
    )


@torch.no_grad()
def replay_reference(
    transformer: WanTransformer3DModel,
    rollout: Rollout,
    conditions: Conditions,
    settings: RolloutSettings,
    *,
    step: int,
    members: Members = slice(None),
) -> StepResult:
    """``replay`` under the reference policy (adapter off), without a graph; KL takes its ``velocity`` or ``mean``."""
    with adapter_disabled(transformer):
        return replay(transformer, rollout, conditions, settings, step=step, members=members)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A micro-batch of a rollout; shapes as in ``Rollout``."""

    latents: Tensor
    states: Tensor
    log_prob: Tensor
    mean: Tensor
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Walk:
    """Walks micro-batches of one group along the grid."""

    transformer: WanTransformer3DModel
    conditions: Conditions
    settings: RolloutSettings
    window_start: int

    def run(
        self, noise: Float[Tensor, "B C T h w"], streams: list[torch.Generator], *, mirrors: Bool[Tensor, " B"]
    ) -> _Part:
        """From x_1 to x_0, keeping the window, whose noise comes from ``streams``; ``mirrors`` take its opposite."""
        window = range(self.window_start, self.window_start + self.settings.window_size)
        dtype = getattr(torch, self.settings.state_dtype)
        latents = self._free(noise)
        states, steps = [], []
        for index in range(self.settings.steps):
            if index not in window:
                latents = self._draw(ODE, self._velocity(latents, index), latents, index=index).next
                continue
            if index == window.start:
                states.append(latents.to(dtype))
                latents = states[-1].float()
            with torch.set_grad_enabled(self.settings.autograd_in_window):
                velocity = self._velocity(latents, index).detach()
            drawn = self._draw(self.settings.policy, velocity, latents, index=index, streams=streams)
            reflected = 2.0 * drawn.mean.detach() - drawn.next
            mirrored = mirrors.to(drawn.next.device).view(-1, 1, 1, 1, 1)
            states.append(torch.where(mirrored, reflected, drawn.next).to(dtype))
            # Scored is what was kept: a log-probability of the unrounded sample could never be replayed.
            following = states[-1].float()
            steps.append(self._take(self.settings.policy, drawn.velocity, latents, index=index, following=following))
            latents = following
        return _Part(
            latents=self._whole(latents),
            states=torch.stack(states, dim=1),
            log_prob=torch.stack([step.log_prob for step in steps], dim=1),
            mean=torch.stack([step.mean for step in steps], dim=1),
            std=tuple(step.std for step in steps),
        )

    def score(
        self, latents: Float[Tensor, "B C F h w"], following: Float[Tensor, "B C F h w"], *, index: int
    ) -> StepResult:
        """A kept sample of step ``index`` under the present weights."""
        velocity = self._velocity(latents, index)
        return self._take(self.settings.policy, velocity, latents, index=index, following=following)

    def _draw(
        self,
        transition: Transition,
        velocity: Tensor,
        latents: Tensor,
        *,
        index: int,
        streams: list[torch.Generator] | None = None,
    ) -> StepResult:
        return take_step(transition, velocity, latents, grid=self.settings.grid, index=index, generator=streams)

    def _take(
        self, transition: Transition, velocity: Tensor, latents: Tensor, *, index: int, following: Tensor
    ) -> StepResult:
        grid = self.settings.grid
        return take_step(transition, velocity, latents, grid=grid, index=index, next_latents=following)

    def _velocity(self, latents: Float[Tensor, "B C F h w"], index: int) -> Float[Tensor, "B C F h w"]:
        conditions = self.conditions.expanded(latents.shape[0])
        t = float(self.settings.grid[index])
        return self._free(guided_velocity(self.transformer, self._whole(latents), t, conditions))

    def _first_frame(self, batch: int) -> Float[Tensor, "B C 1 h w"] | None:
        given = self.conditions.first_frame
        return None if given is None else given.expand(batch, -1, -1, -1, -1)

    def _free(self, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B C F h w"]:
        """Without a given first frame, which is no part of the policy."""
        return latents if self.conditions.first_frame is None else latents[:, :, 1:]

    def _whole(self, latents: Float[Tensor, "B C F h w"]) -> Float[Tensor, "B C T h w"]:
        """With the given first frame."""
        first = self._first_frame(latents.shape[0])
        return latents if first is None else torch.cat([first.to(latents), latents], dim=2)


def _initial_seed(settings: RolloutSettings, *, seed: int, group: int, member: int) -> int:
    """The seed of a member's initial noise: its own, or the group's."""
    if settings.same_noise:
        return derived_seed(_SHARED_STREAM, seed, group)
    return derived_seed(_MEMBER_STREAM, seed, group, member, 0)


def _noise_stream(settings: RolloutSettings, *, seed: int, group: int, member: int) -> torch.Generator:
    """The source of a member's noise inside the window; a mirror has the one before it."""
    owner = member - 1 if _is_mirror(settings, member) else member
    return torch.Generator().manual_seed(derived_seed(_MEMBER_STREAM, seed, group, owner, 1))


def _is_mirror(settings: RolloutSettings, member: int) -> bool:
    """Whether a member's noise is the opposite of that of the member before it."""
    return settings.mirrored_noise and member % 2 == 1
