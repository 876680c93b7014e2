"""Deterministic sampling: Euler steps of dx = v dt along our own grid, with classifier-free guidance.

The loop asks a function for the velocity of each step, so that progress, Cancel and reward guidance share it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from vggrpo.policy.backbone import predict_velocity
from vggrpo.policy.schedule import noise_grid
from vggrpo.types import Latents

VelocityField = Callable[[Float[Tensor, "B C T h w"], float, int], Float[Tensor, "B C T h w"]]
"""(latents, t, index of the step) to the velocity there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What the policy is conditioned on.

    ``negative`` is needed when ``guidance`` differs from 1. ``first_frame`` are normalised latents of one frame.
    ``together``: with guidance, both texts run in one batch; otherwise one after the other in half the memory. The two
    ways round differently, so whoever replays must go the way that was sampled.
    """

    text: Float[Tensor, "B L D"]
    negative: Float[Tensor, "#B L D"] | None = None
    guidance: float = 1.0
    first_frame: Float[Tensor, "B C 1 h w"] | None = None
    together: bool = True

    def __post_init__(self) -> None:
        """Guidance without a negative would silently be none."""
        if self.guidance != 1.0 and self.negative is None:
            raise ValueError(f"guidance {self.guidance} needs a negative embedding")

    def expanded(self, count: int) -> "Conditions":
        """Conditions of ONE video for ``count`` of them."""
        first = None if self.first_frame is None else self.first_frame.expand(count, -1, -1, -1, -1)
        return replace(self, text=self.text.expand(count, -1, -1), first_frame=first)


def draw_noise(shape: tuple[int, ...], *, seed: int, device: torch.device) -> Float[Tensor, "B C T h w"]:
    """Initial noise x_1; drawn on the CPU, so that a seed means the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device)


def guided_velocity(
    transformer: WanTransformer3DModel,
    latents: Float[Tensor, "B C T h w"],
    t: float,
    conditions: Conditions,
) -> Float[Tensor, "B C T h w"]:
    """v_uncond + guidance · (v_cond − v_uncond); zero on a given first frame."""
    batch, _, frames, _, _ = latents.shape
    given = conditions.first_frame is not None
    fraction = torch.full((batch, frames if given else 1), t, dtype=torch.float32, device=latents.device)
    if given:
        fraction[:, 0] = 0.0
    if conditions.negative is None or conditions.guidance == 1.0:
        velocity = predict_velocity(transformer, latents, fraction, conditions.text)
    else:
        negative = conditions.negative.expand_as(conditions.text)
        if conditions.together:
            text = torch.cat([conditions.text, negative])
            both = predict_velocity(transformer, torch.cat([latents, latents]), torch.cat([fraction, fraction]), text)
            conditional, unconditional = both.chunk(2)
        else:
            conditional = predict_velocity(transformer, latents, fraction, conditions.text)
            unconditional = predict_velocity(transformer, latents, fraction, negative)
        velocity = unconditional + conditions.guidance * (conditional - unconditional)
    if conditions.first_frame is not None:
        velocity[:, :, 0] = 0.0
    return velocity


@torch.no_grad()
def sample_ode(
    transformer: WanTransformer3DModel,
    noise: Float[Tensor, "B C T h w"],
    conditions: Conditions,
    *,
    steps: int,
    shift: float,
    on_step: Callable[[int, int], None] | None = None,
) -> Latents:
    """Noise x_1 to latents x_0 in ``steps`` Euler steps. ``on_step(done, steps)`` may raise to stop."""

    def velocity(latents: Float[Tensor, "B C T h w"], t: float, _index: int) -> Float[Tensor, "B C T h w"]:
        return guided_velocity(transformer, latents, t, conditions)

    start = starting_latents(noise, conditions)
    return integrate(velocity, start, grid=noise_grid(steps, shift=shift), on_step=on_step)


def starting_latents(noise: Float[Tensor, "B C T h w"], conditions: Conditions) -> Float[Tensor, "B C T h w"]:
    """Noise x_1, with the first frame in its place where one is given."""
    if conditions.first_frame is None:
        return noise
    return torch.cat([conditions.first_frame, noise[:, :, 1:]], dim=2)


def integrate(
    velocity: VelocityField,
    start: Float[Tensor, "B C T h w"],
    *,
    grid: Float[Tensor, " points"],
    on_step: Callable[[int, int], None] | None = None,
) -> Latents:
    """Euler steps of dx = v dt from ``grid[0]`` to ``grid[-1]``; ``velocity`` is asked once a step."""
    steps = len(grid) - 1
    latents = start
    for index in range(steps):
        slope = velocity(latents, float(grid[index]), index)
        latents = latents + float(grid[index + 1] - grid[index]) * slope
        if on_step:
            on_step(index + 1, steps)
    return Latents(tensor=latents)
