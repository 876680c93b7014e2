"""Group-relative advantages: how much better a video is than the others of its own prompt.

With rewards r_ij (sample i, reward j), group means r̄_gj and standard deviations std_gj (over the group's K samples,
ddof 0, float64) and weights w_j:

    paper    A_i = Σ_j w_j z_ij / Σ_j w_j,   z_ij = (r_ij − r̄_gj) / (std_gj + ε)         [VGGRPO]
    gdpo     Ã_i = Σ_j w_j z_ij,             A_i = (Ã_i − mean Ã) / (std Ã + ε) over the batch
    scalar   R_i = Σ_j w_j r_ij,             A_i = (R_i − R̄_g) / (std + ε), std of the group, of the batch, or 1

A sample with a weighted reward that is not finite is unmeasurable: it is left out of every mean and standard deviation,
its advantage is zero, and it is counted. Nothing is imputed: a made-up value would be a reward for being unmeasurable.
A group whose rewards do not vary has advantage exactly zero; it is counted, and ``kept`` says not to spend time on it.
"""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.runtime.errors import UserError

Mode = Literal["paper", "gdpo", "scalar"]
Std = Literal["group", "global", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvantageSettings:
    """``std`` belongs to mode ``scalar``. Spreads up to ``min_std`` count as none: they are rounding, not signal."""

    mode: Mode = "paper"
    std: Std = "group"
    epsilon: float = 1e-6
    min_std: float = 1e-6

    def __post_init__(self) -> None:
        """A setting without effect is a mistake."""
        if self.mode != "scalar" and self.std != "group":
            raise UserError(f"std {self.std!r} belongs to advantage mode 'scalar'; {self.mode!r} has the group's.")
        if self.epsilon < 0 or self.min_std < 0:
            raise UserError("epsilon and min_std of the advantage must not be negative.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """Advantages of P groups of K samples, float64.

    ``standardised`` holds each weighted reward's z inside its group (zero where unmeasurable or without spread).
    ``kept`` marks groups with any signal, ``measured`` the samples whose rewards are all finite.
    """

    values: Float[Tensor, "P K"]
    standardised: Mapping[str, Float[Tensor, "P K"]]
    measured: Bool[Tensor, "P K"]
    kept: Bool[Tensor, " P"]

    @property
    def nan_count(self) -> int:
        """Samples that could not be measured."""
        return int((~self.measured).sum())

    @property
    def zero_std_groups(self) -> int:
        """Groups without signal."""
        return int((~self.kept).sum())


def group_advantages(
    rewards: Mapping[str, Float[Tensor, "P K"]],
    *,
    weights: Mapping[str, float],
    settings: AdvantageSettings,
) -> Advantages:
    """Advantages of P groups of K samples; rewards without a weight, or with weight 0, are not looked at.

    Raises:
        UserError: a group of one sample, an unknown or senseless weight, or no positive weight.
    """
    used = _weighted(rewards, weights)
    table = {name: rewards[name].detach().double() for name in used}
    measured = torch.stack([reward.isfinite() for reward in table.values()]).all(0)
    if measured.shape[1] < 2:
        raise UserError("A group of one video has nothing to be compared with: use a group size of 2 or more.")
    standardised = {
        name: _standardise(reward, measured, settings, divisor=_group_std(reward, measured) + settings.epsilon)
        for name, reward in table.items()
    }
    if settings.mode == "scalar":
        total = _weighted_sum(table, used)
        values = _standardise(total, measured, settings, divisor=_scalar_divisor(total, measured, settings))
    else:
        values = _weighted_sum(standardised, used)
        if settings.mode == "paper":
            values = values / sum(used.values())
    kept = (values != 0).any(1)
    if settings.mode == "gdpo":
        live = measured & kept[:, None]
        values = _standardise_batch(values, live, settings)
    return Advantages(values=values, standardised=standardised, measured=measured, kept=kept)


def rows_by_group(groups: Int[Tensor, " N"]) -> Int[Tensor, "P K"]:
    """Where the samples of each group lie in a flat batch, groups in ascending order of their integer ids.

    For samples gathered from several processes: ``reward[rows_by_group(groups)]`` is [P, K].
    Raises ValueError when a group is incomplete.
    """
    ids, counts = groups.unique(return_counts=True)
    if not bool((counts == counts[0]).all()):
        raise ValueError(f"groups of different sizes: {dict(zip(ids.tolist(), counts.tolist(), strict=True))}")
    return groups.argsort(stable=True).reshape(len(ids), int(counts[0]))


def _weighted(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, float]:
    """The positive weights; a UserError for senseless ones."""
    for name, weight in weights.items():
        if name not in rewards:
            near = difflib.get_close_matches(name, rewards, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(rewards)}."
            raise UserError(f"There is no reward {name!r} to weight: {hint}")
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"The weight of reward {name!r} must be 0 or more, not {weight}.")
    used = {name: weight for name, weight in weights.items() if weight > 0}
    if not used:
        raise UserError("Every reward has weight 0: give at least one a positive weight.")
    return used


def _weighted_sum(table: Mapping[str, Tensor], weights: Mapping[str, float]) -> Float[Tensor, "P K"]:
    return torch.stack([weight * table[name] for name, weight in weights.items()]).sum(0)


def _group_mean(values: Float[Tensor, "P K"], measured: Bool[Tensor, "P K"]) -> Float[Tensor, "P 1"]:
    """Mean over the measured samples of each group; 0 where there are none."""
    count = measured.sum(1, keepdim=True).clamp(min=1)
    return values.where(measured, 0.0).sum(1, keepdim=True) / count


def _group_std(values: Float[Tensor, "P K"], measured: Bool[Tensor, "P K"]) -> Float[Tensor, "P 1"]:
    """Standard deviation (ddof 0) over the measured samples of each group; 0 where there are none."""
    centred = (values - _group_mean(values, measured)).where(measured, 0.0)
    return (centred.square().sum(1, keepdim=True) / measured.sum(1, keepdim=True).clamp(min=1)).sqrt()


def _scalar_divisor(
    total: Float[Tensor, "P K"], measured: Bool[Tensor, "P K"], settings: AdvantageSettings
) -> Float[Tensor, "#P 1"]:
    if settings.std == "none":
        return total.new_ones(1, 1)
    if settings.std == "group":
        return _group_std(total, measured) + settings.epsilon
    return _group_std(total.reshape(1, -1), measured.reshape(1, -1)) + settings.epsilon


def _standardise(
    values: Float[Tensor, "P K"],
    measured: Bool[Tensor, "P K"],
    settings: AdvantageSettings,
    *,
    divisor: Float[Tensor, "#P 1"],
) -> Float[Tensor, "P K"]:
    """(r − group mean) / divisor; exactly zero for unmeasured samples and for groups without spread."""
    varies = _group_std(values, measured) > settings.min_std
    z = (values - _group_mean(values, measured)) / divisor
    return z.where(measured & varies, 0.0)


def _standardise_batch(
    values: Float[Tensor, "P K"], live: Bool[Tensor, "P K"], settings: AdvantageSettings
) -> Float[Tensor, "P K"]:
    """GDPO's last step, over the live samples of the whole batch; the others stay exactly zero."""
    flat, mask = values.reshape(1, -1), live.reshape(1, -1)
    z = (flat - _group_mean(flat, mask)) / (_group_std(flat, mask) + settings.epsilon)
    return z.where(mask, 0.0).reshape(values.shape)
