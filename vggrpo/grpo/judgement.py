"""From rollouts to advantages: score every video, gather whole groups, standardise, guard the camera's motion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.grpo.advantage import Advantages, group_advantages
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.motion_guard import guarded_advantages, mean_of_measured, motion_hinge
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.rewards import reward_names

PATH_LENGTH = "camera_path_length"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Advantages of the iteration's P groups of K members, over all processes; ``usable`` ones are trained on."""

    advantages: Float[Tensor, "P K"]
    usable: Bool[Tensor, "P K"]
    metrics: Mapping[str, float]


def judge_groups(
    scores: Mapping[str, Float[Tensor, "P K"]], *, base_path: Float[Tensor, "P n"] | None, config: GrpoConfig
) -> Verdict:
    """Advantages from the scores of whole groups. ``base_path`` are camera paths of the base model's videos."""
    found = group_advantages(scores, weights=config.weights.by_name, settings=config.advantage_settings)
    values, kept, guard = found.values, found.kept, {}
    if base_path is not None:
        path = scores[PATH_LENGTH].double()
        base = mean_of_measured(base_path.double())
        hinge = motion_hinge(path, base=base, floor=config.motion_floor)
        values = guarded_advantages(values, hinge=hinge, measured=found.measured, strength=config.motion_guard)
        kept = (values != 0).any(dim=1)
        guard = {"guard/hinge": float(hinge.mean()), "guard/base_camera_path_length": float(base.nanmean())}
    usable = found.measured & kept[:, None]
    return Verdict(advantages=values, usable=usable, metrics=_metrics(scores, found, values=values, kept=kept) | guard)


def _metrics(
    scores: Mapping[str, Tensor], found: Advantages, *, values: Float[Tensor, "P K"], kept: Bool[Tensor, " P"]
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in reward_names():
        metrics[f"reward/{name}/mean"] = float(scores[name].double().nanmean())
        metrics[f"reward/{name}/std"] = _mean_spread(scores[name])
    metrics["reward/nan_frac"] = found.nan_count / found.measured.numel()
    for name in GUARDS:
        metrics[f"guard/{name}"] = float(scores[name].double().nanmean())
    metrics["group/zero_std_ratio"] = 1.0 - float(kept.double().mean())
    metrics["advantage/abs_mean"] = float(values.abs().mean())
    return metrics


def _mean_spread(values: Float[Tensor, "P K"]) -> float:
    """The spread inside a group that a reward has to be learnt from: std over members, mean over groups."""
    rows: Sequence[Tensor] = [row[row.isfinite()].double() for row in values]
    spreads = [row.std(correction=0) for row in rows if len(row)]
    return float(torch.stack(spreads).mean()) if spreads else float("nan")
