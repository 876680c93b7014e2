"""Reward guidance on a preset's models: the reward that steers, and what it brought.

    r = ½ (motion smoothness + geometry consistency) of Φ_g(z)

the two rewards of the paper with equal weights (the weights are ours: the paper guides with each). What it brought is
measured on the finished latents, against the unguided sample of the same prompt and seed. Φ_g is judge and guide at
once, so a gain here says that guidance works, not that a video got better: look at it, or score it from its frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vggrpo.policy.guidance import GuidanceCounts, Reward, RewardGuidance
from vggrpo.rewards import RewardReport, geometry_consistency, motion_smoothness
from vggrpo.types import Latents, SceneGeometry


def guiding_reward(latent_geometry: Callable[[Latents], SceneGeometry]) -> Reward:
    """r through Φ_g, differentiable in the latents; NaN where either reward cannot be judged."""

    def reward(latents: Latents) -> Float[Tensor, " B"]:
        scene = latent_geometry(latents)
        return 0.5 * (motion_smoothness(scene).value + geometry_consistency(scene).value)

    return reward


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceComparison:
    """The unguided sample beside a guided one of the same prompt and seed, and what both took."""

    settings: RewardGuidance
    counts: GuidanceCounts
    unguided: Latents
    guided_seconds: float
    unguided_seconds: float

    def to_json(self, *, before: RewardReport, after: RewardReport) -> dict[str, object]:
        """The manifest's entry, given the rewards of the unguided and of the guided sample.

        ``seconds`` are those of denoising; the unguided ones serve the comparison only.
        """
        return {
            "scale": self.settings.scale,
            "every": self.settings.every,
            "max_factor": self.settings.max_factor,
            "max_share": self.settings.max_share,
            "before": _numbers(before),
            "after": _numbers(after),
            "guided_steps": self.counts.guided,
            "clipped_steps": self.counts.clipped,
            "skipped_steps": self.counts.skipped,
            "seconds": {"guided": round(self.guided_seconds, 3), "unguided": round(self.unguided_seconds, 3)},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Denoised:
    """Latents z_0 of a run; ``comparison`` where rewards guided them."""

    latents: Latents
    comparison: GuidanceComparison | None = None


def _numbers(report: RewardReport) -> dict[str, float | None]:
    """r, its two parts, and the guard that tells a steadier camera from one that stopped; None = not measured."""
    motion, geometry = report.motion_smoothness.value[0].item(), report.geometry_consistency.value[0].item()
    values = {
        "reward": 0.5 * (motion + geometry),
        "motion_smoothness": motion,
        "geometry_consistency": geometry,
        "camera_path_length": report.guards.camera_path_length[0].item(),
    }
    return {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in values.items()}
