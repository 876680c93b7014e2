"""The policy's weights and everything that changes them: replay, loss, gradients, AdamW, average.

One iteration deals its micro-batches out to ``updates`` optimiser steps. Gradients are added up over micro-batches and
window steps (accumulation), summed over processes, clipped, applied. The loss is the mean over the usable videos of ALL
processes, so the number of processes does not change it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vggrpo.grpo.clipped_surrogate import OldStep, StepLoss, step_loss
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.processes import Processes
from vggrpo.policy.adapter import adapter_parameters
from vggrpo.policy.rollout import Rollout, micro_batches, replay, replay_reference
from vggrpo.policy.sampling import Conditions
from vggrpo.runtime.errors import UserError

_BETAS = (0.9, 0.999)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class JudgedGroup:
    """A rollout with its verdict. ``usable`` marks the members that are trained on."""

    rollout: Rollout
    conditions: Conditions
    advantages: Float[Tensor, " K"]
    usable: Bool[Tensor, " K"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _MicroBatch:
    """Some members of a group, as the rollout ran them."""

    group: JudgedGroup
    members: slice


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateReport:
    """What an iteration's updates did. Means are over usable videos and window steps of all processes."""

    loss: float
    kl: float
    clip_frac: float
    ratio_mean: float
    ratio_abs_dev_max: float
    on_policy_abs_dev_max: float
    """max |ratio − 1| in the first update, where the policy is still the one that sampled."""
    grad_norm: float
    applied: int
    """Optimiser steps that were taken; the others had nothing usable, or were not finite."""


class _Tally:
    """Sums over micro-batches, on their device: reading each one out would stall a GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.deviation = 0.0

    def add(self, loss: StepLoss, weight: Float[Tensor, " B"]) -> None:
        """Add one window step of one micro-batch; ``weight`` is 1 for usable members."""
        parts = {
            "loss": loss.loss.detach(),
            "kl": loss.kl,
            "clip_frac": loss.clipped.to(weight.dtype),
            "ratio_mean": loss.ratio,
        }
        for name, values in parts.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=weight.device)) + (values * weight).sum()
        self.sums["count"] = self.sums.get("count", torch.zeros((), device=weight.device)) + weight.sum()
        deviation = float((loss.ratio - 1.0).abs().max())
        # `max` would pass over a NaN in its second argument.
        self.deviation = deviation if math.isnan(deviation) else max(deviation, self.deviation)


class Learner:
    """Trains the adapter of a transformer; see the module's text."""

    def __init__(self, transformer: WanTransformer3DModel, config: GrpoConfig, processes: Processes) -> None:
        self._transformer = transformer
        self._config = config
        self._rollout = config.rollout_settings
        self._objective = config.surrogate_settings
        self._processes = processes
        self._parameters = adapter_parameters(transformer)
        processes.make_equal(self._parameters.values())
        self._average = {n: p.detach().clone() for n, p in self._parameters.items()} if config.ema_decay else {}
        self._optimiser = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=config.learning_rate,
            betas=_BETAS,
            weight_decay=config.weight_decay,
        )
        self.updates = 0
        """Optimiser steps taken in the whole run."""

    def improve(self, groups: Sequence[JudgedGroup], *, check_ratio: bool) -> UpdateReport:
        """Run an iteration's updates on this process's groups.

        Raises:
            UserError: ``check_ratio``, and the first update's ratios are not 1; nothing has been changed then.
        """
        tallies, norms, on_policy, applied = [], [], 0.0, 0
        for number, parts in enumerate(self._dealt_out(groups)):
            tally = _Tally()
            idle = self._processes.idle_passes(len(parts))
            norm = self._accumulate(parts, tally, spare=[self._parts(groups[0])[0]] * idle)
            deviation = self._processes.largest(tally.deviation)
            if number == 0:
                on_policy = deviation
                if check_ratio:
                    self._require_on_policy(deviation)
            if norm is not None and math.isfinite(norm):
                self._optimiser.step()
                self.updates += 1
                self._update_average()
                applied += 1
            if norm is not None:
                norms.append(norm)
            tallies.append((tally, deviation))
        self._optimiser.zero_grad()
        return self._report(tallies, norms=norms, on_policy=on_policy, applied=applied)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the adapter holds its average: what is evaluated and exported."""
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(trained)

    def state(self) -> dict[str, Tensor]:
        """Adapter, average and optimiser moments by name, for a checkpoint."""
        # Copies: `averaged` writes over the parameters in place.
        tensors = {f"adapter/{name}": parameter.detach().clone() for name, parameter in self._parameters.items()}
        tensors |= {f"average/{name}": average for name, average in self._average.items()}
        for name, parameter in self._parameters.items():
            moments = self._optimiser.state.get(parameter, {})
            tensors |= {f"optimiser/{key}/{name}": torch.as_tensor(value) for key, value in moments.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Take a checkpoint's tensors. Raises a UserError if they belong to another adapter."""
        for name, parameter in self._parameters.items():
            stored = tensors.get(f"adapter/{name}")
            if stored is None or stored.shape != parameter.shape:
                raise UserError(f"The checkpoint does not fit the adapter ({name}): choose another output folder.")
            parameter.data.copy_(stored)
            if name in self._average:
                self._average[name].copy_(tensors.get(f"average/{name}", stored))
            keys = [key for key in _MOMENTS if f"optimiser/{key}/{name}" in tensors]
            # AdamW counts its steps on the CPU.
            self._optimiser.state[parameter] = {
                key: tensors[f"optimiser/{key}/{name}"].to("cpu" if key == "step" else parameter.device) for key in keys
            }
        self.updates = updates

    def _dealt_out(self, groups: Sequence[JudgedGroup]) -> list[list[_MicroBatch]]:
        """The iteration's micro-batches by update. A rollout's micro-batch stays whole: its numbers depend on it."""
        parts: list[list[_MicroBatch]] = [[] for _ in range(self._config.updates)]
        for group in groups:
            for number, part in enumerate(self._parts(group)):
                parts[(group.rollout.group + number) % self._config.updates].append(part)
        return parts

    def _parts(self, group: JudgedGroup) -> list[_MicroBatch]:
        batches = micro_batches(group.rollout.count, self._config.micro_batch)
        return [_MicroBatch(group=group, members=members) for members in batches]

    def _accumulate(
        self, parts: Sequence[_MicroBatch], tally: _Tally, *, spare: Sequence[_MicroBatch] = ()
    ) -> float | None:
        """Gradients of one update in ``.grad``, clipped; returns their norm, None if no process had a usable video.

        ``spare`` micro-batches are run for nothing, to keep step with other processes.
        """
        self._optimiser.zero_grad()
        usable = sum(int(part.group.usable[part.members].sum()) for part in parts)
        device = self._transformer.device
        total = float(self._processes.sum(torch.tensor(float(usable * self._config.window_size), device=device)))
        if not total:
            return None
        for part in parts:
            if self._processes.in_step or bool(part.group.usable[part.members].any()):
                for step in range(self._config.window_size):
                    self._backward(part, step=step, total=total, tally=tally)
        for part in spare:
            for step in range(self._config.window_size):
                self._backward(part, step=step, total=total, tally=None)
        self._processes.sum_gradients(self._parameters.values())
        return float(nn.utils.clip_grad_norm_(list(self._parameters.values()), self._config.gradient_clip))

    def _backward(self, part: _MicroBatch, *, step: int, total: float, tally: _Tally | None) -> None:
        """One window step of one micro-batch; without a tally it counts for nothing."""
        group, members = part.group, part.members
        rollout, conditions = group.rollout, group.conditions
        device = self._transformer.device
        wants_kl = self._objective.kl != "none" and self._objective.kl_weight > 0.0
        reference = None
        if wants_kl:
            reference = replay_reference(
                self._transformer, rollout, conditions, self._rollout, step=step, members=members
            )
        new = replay(self._transformer, rollout, conditions, self._rollout, step=step, members=members)
        old = OldStep(log_prob=rollout.log_prob[members, step].to(device), mean=rollout.mean[members, step].to(device))
        loss = step_loss(
            new,
            old,
            group.advantages[members].to(device, torch.float32),
            reference=reference,
            settings=self._objective,
        )
        weight = group.usable[members].to(device, torch.float32)
        if tally is None:
            weight = torch.zeros_like(weight)
        else:
            tally.add(loss, weight)
        ((loss.loss * weight).sum() / total).backward()

    def _require_on_policy(self, deviation: float) -> None:
        if deviation <= self._config.ratio_tolerance:
            return
        raise UserError(
            f"Before the first update every ratio must be 1, but one is off by {deviation:.2g} "
            f"(--ratio-tolerance {self._config.ratio_tolerance:g}): the replay does not repeat the rollout, and the "
            "gradients would be wrong. Usual causes: another --micro-batch than the rollout's, a model that is not "
            "deterministic (dropout, compiled or low-precision attention), or weights that changed in between."
        )

    def _update_average(self) -> None:
        # The average starts short and lengthens, so the untrained adapter does not linger.
        decay = min(self._config.ema_decay, (1.0 + self.updates) / (10.0 + self.updates))
        for name, average in self._average.items():
            average.lerp_(self._parameters[name].detach(), 1.0 - decay)

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, values in weights.items():
            self._parameters[name].data.copy_(values)

    def _report(
        self, tallies: Sequence[tuple[_Tally, float]], *, norms: Sequence[float], on_policy: float, applied: int
    ) -> UpdateReport:
        names = ("loss", "kl", "clip_frac", "ratio_mean", "count")
        device = self._transformer.device
        zero = torch.zeros((), device=device)
        sums = torch.stack([torch.stack([t.sums.get(name, zero) for t, _ in tallies]).sum() for name in names])
        *values, count = self._processes.sum(sums.double() if device.type != "mps" else sums).tolist()
        loss, kl, clip_frac, ratio_mean = (value / count if count else math.nan for value in values)
        return UpdateReport(
            loss=loss,
            kl=kl,
            clip_frac=clip_frac,
            ratio_mean=ratio_mean,
            ratio_abs_dev_max=max((deviation for _, deviation in tallies), default=0.0),
            on_policy_abs_dev_max=on_policy,
            grad_norm=sum(norms) / len(norms) if norms else math.nan,
            applied=applied,
        )
