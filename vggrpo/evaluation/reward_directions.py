"""``evaluate gradients``: is there a change of the adapter that raises a reward on every video at once?

A policy gradient estimates, from noise, what back-propagation through Φ_g and the sampler gives exactly for one video:
g_i = ∂r_i / ∂θ, over the adapter's weights θ. A small step raises the reward of all videos as far as these agree:

    c = mean over i ≠ j of cos(g_i, g_j)

Where c is about 0, videos ask for unrelated changes: no common step helps, and what can be learnt has to be learnt for
each kind of video apart, from many more of them. The interval is the jackknife's, over videos.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.asset_rows import Row
from vggrpo.evaluation.estimates import Estimate, jackknife, not_measured
from vggrpo.policy.adapter import adapter_parameters
from vggrpo.policy.sampling import Conditions, guided_velocity, integrate, starting_latents
from vggrpo.policy.schedule import noise_grid
from vggrpo.rewards import judge
from vggrpo.types import Latents, SceneGeometry

Gradients = Mapping[str, Float[Tensor, " P"] | None]
"""The exact gradient of each reward of one video; None where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardDirections:
    """Cosines [n, n] between the gradients of n videos by reward; NaN where one of the two has none."""

    cosines: Mapping[str, Float[Tensor, "n n"]]

    def rows(self) -> tuple[Row, ...]:
        """One for each reward."""
        return tuple(
            Row(
                key=f"gradients/{name}",
                part="cosine of the exact gradients of two videos",
                name=name.replace("_", " "),
                estimate=mean_cosine(cosines),
            )
            for name, cosines in self.cosines.items()
        )


def reward_gradients(
    transformer: WanTransformer3DModel,
    latent_geometry: Callable[[Latents], SceneGeometry],
    *,
    noise: Float[Tensor, "1 C T h w"],
    conditions: Conditions,
    steps: int,
    shift: float,
) -> Gradients:
    """∂r/∂θ of one video by reward, through Φ_g and all steps of the sampler; the adapter must be trainable."""
    weights = list(adapter_parameters(transformer).values())

    def velocity(latents: Float[Tensor, "1 C T h w"], t: float, _index: int) -> Float[Tensor, "1 C T h w"]:
        return guided_velocity(transformer, latents, t, conditions)

    # What `sample_ode` does, with a graph.
    latents = integrate(velocity, starting_latents(noise, conditions), grid=noise_grid(steps, shift=shift))
    report = judge(latent_geometry(latents))
    found: dict[str, Tensor | None] = {}
    for name, term in report.terms.items():
        reward = term.value[0]
        found[name] = None
        if bool(reward.isfinite()) and reward.requires_grad:
            parts = torch.autograd.grad(reward, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
            gradient = torch.cat([part.detach().float().flatten() for part in parts])
            found[name] = gradient if bool(gradient.isfinite().all()) and bool(gradient.any()) else None
    return found


def measure_reward_directions(
    videos: int, *, gradients_of: Callable[[int], Gradients], on_video: Callable[[int], None]
) -> RewardDirections:
    """Gradients of videos 0, 1, … compared with each other. ``on_video`` is told how many are done."""
    found: list[Gradients] = []
    for index in range(videos):
        found.append(gradients_of(index))
        on_video(index + 1)
    return RewardDirections(cosines={name: _cosines([one[name] for one in found]) for name in found[0]})


def _cosines(gradients: Sequence[Tensor | None]) -> Float[Tensor, "n n"]:
    """Of all pairs; NaN in rows and columns of videos without a gradient."""
    count = len(gradients)
    cosines = torch.full((count, count), math.nan, dtype=torch.float64)
    units = {index: one / one.norm() for index, one in enumerate(gradients) if one is not None}
    for i, first in units.items():
        for j, second in units.items():
            cosines[i, j] = float(first @ second)
    return cosines


def mean_cosine(cosines: Float[Tensor, "n n"]) -> Estimate:
    """The mean over pairs of different videos, with its jackknife interval."""
    measured = cosines.diagonal().isfinite()
    left_out = int((~measured).sum())
    kept = cosines[measured][:, measured]
    count = len(kept)
    if count < 2:
        return not_measured("it needs two videos with a gradient", of="videos", left_out=left_out)
    others = kept.sum(1) - kept.diagonal()
    total = float(others.sum())
    value = total / (count * (count - 1))
    if count == 2:
        return jackknife(value, without=[], of="videos", n=count, left_out=left_out)
    without = [(total - 2.0 * float(one)) / ((count - 1) * (count - 2)) for one in others]
    return jackknife(value, without=without, of="videos", n=count, left_out=left_out)
