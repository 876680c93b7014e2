"""The policy's weights and everything that changes them: passes, gradients, AdamW, average.

One iteration deals its micro-batches out to ``updates`` optimiser steps. Gradients are added up over micro-batches and
their passes (accumulation), summed over processes, clipped, applied. The loss is the mean over what is usable on ALL
processes, so the number of processes does not change it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.lesson import Lesson, MicroBatch, PassLoss
from vggrpo.grpo.processes import Processes
from vggrpo.policy.adapter import adapter_parameters
from vggrpo.runtime.errors import UserError

_BETAS = (0.9, 0.999)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateReport:
    """What an iteration's updates did."""

    means: Mapping[str, float]
    """The loss and what the objective logs: means over what was usable, and its passes, on all processes."""
    ratio_abs_dev_max: float | None
    """max |ratio − 1|; None where the objective has no ratio."""
    on_policy_abs_dev_max: float | None
    """The same in the first update, where the policy is still the one that sampled."""
    grad_norm: float
    grad_agreement: float
    """Cosine of the gradient with the mean of the earlier ones; NaN before there is one. Where it stays at 0 the
    iterations ask for unrelated things: more videos, or less noise in the gradient, and not a higher rate."""
    applied: int
    """Optimiser steps that were taken; the others had nothing usable, or were not finite."""

    @property
    def loss(self) -> float:
        """NaN if nothing was usable."""
        return self.means["loss"]

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of ``metrics.jsonl``."""
        found = dict(self.means)
        if self.ratio_abs_dev_max is not None and self.on_policy_abs_dev_max is not None:
            found["ratio/abs_dev_max"] = self.ratio_abs_dev_max
            found["ratio/on_policy_abs_dev_max"] = self.on_policy_abs_dev_max
        if not math.isnan(self.grad_agreement):
            found["grad_agreement"] = self.grad_agreement
        return found | {"grad_norm": self.grad_norm, "update/applied": float(self.applied)}


@dataclass(kw_only=True)
class _Tally:
    """Sums over micro-batches, on their device: reading each one out would stall a GPU."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    deviation: float = 0.0

    def add(self, found: PassLoss, weight: Float[Tensor, " B"]) -> None:
        """Add one pass of one micro-batch; ``weight`` is 1 for what is usable."""
        for name, values in {"loss": found.loss.detach(), **found.logged}.items():
            self._add(name, (values * weight).sum())
        self._add("count", weight.sum())
        if found.ratio is not None:
            deviation = float((found.ratio - 1.0).abs().max())
            # `max` would pass over a NaN in its second argument.
            self.deviation = deviation if math.isnan(deviation) else max(deviation, self.deviation)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value


class Learner:
    """Trains the adapter of a transformer; see the module's text."""

    def __init__(self, transformer: WanTransformer3DModel, config: GrpoConfig, processes: Processes) -> None:
        self._transformer = transformer
        self._config = config
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

    def improve(self, lesson: Lesson, *, check_ratio: bool) -> UpdateReport:
        """Run an iteration's updates on this process's part of the lesson.

        Raises:
            UserError: ``check_ratio``, and the first update's ratios are not 1; nothing has been changed then.
        """
        tallies, norms, agreements, on_policy, largest, applied = [], [], [], 0.0, 0.0, 0
        for number, parts in enumerate(self._dealt_out(lesson.batches)):
            tally = _Tally()
            idle = self._processes.idle_passes(len(parts))
            norm = self._accumulate(parts, tally, spare=[lesson.batches[0]] * idle)
            deviation = self._processes.largest(tally.deviation)
            largest = deviation if math.isnan(deviation) else max(deviation, largest)
            if number == 0:
                on_policy = deviation
                if check_ratio:
                    self._require_on_policy(deviation)
            if norm is not None and math.isfinite(norm):
                agreements.append(self._agreement())
                self._optimiser.step()
                self.updates += 1
                self._update_average()
                applied += 1
            if norm is not None:
                norms.append(norm)
            tallies.append(tally)
        self._optimiser.zero_grad()
        return UpdateReport(
            means=self._means(tallies, ("loss", *lesson.logged)),
            ratio_abs_dev_max=largest if lesson.has_ratio else None,
            on_policy_abs_dev_max=on_policy if lesson.has_ratio else None,
            grad_norm=sum(norms) / len(norms) if norms else math.nan,
            grad_agreement=sum(agreements) / len(agreements) if agreements else math.nan,
            applied=applied,
        )

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

    def _dealt_out(self, batches: Sequence[MicroBatch]) -> list[list[MicroBatch]]:
        """The iteration's micro-batches by update."""
        parts: list[list[MicroBatch]] = [[] for _ in range(self._config.updates)]
        for batch in batches:
            parts[batch.number % self._config.updates].append(batch)
        return parts

    def _accumulate(
        self, parts: Sequence[MicroBatch], tally: _Tally, *, spare: Sequence[MicroBatch] = ()
    ) -> float | None:
        """Gradients of one update in ``.grad``, clipped; returns their norm, None if nothing was usable anywhere.

        ``spare`` micro-batches are run for nothing, to keep step with other processes.
        """
        self._optimiser.zero_grad()
        usable = sum(int(part.usable.sum()) * part.passes for part in parts)
        device = self._transformer.device
        total = float(self._processes.sum(torch.tensor(float(usable), device=device)))
        if not total:
            return None
        for part in parts:
            if self._processes.in_step or bool(part.usable.any()):
                for index in range(part.passes):
                    self._backward(part, index=index, total=total, tally=tally)
        for part in spare:
            for index in range(part.passes):
                self._backward(part, index=index, total=total, tally=None)
        self._processes.sum_gradients(self._parameters.values())
        return float(nn.utils.clip_grad_norm_(list(self._parameters.values()), self._config.gradient_clip))

    def _backward(self, part: MicroBatch, *, index: int, total: float, tally: _Tally | None) -> None:
        """One pass of one micro-batch; without a tally it counts for nothing."""
        found = part.loss(self._transformer, index)
        weight = part.usable.to(self._transformer.device, torch.float32)
        if tally is None:
            weight = torch.zeros_like(weight)
        else:
            tally.add(found, weight)
        ((found.loss * weight).sum() / total).backward()

    def _agreement(self) -> float:
        """Cosine of ``.grad`` with AdamW's running mean of the gradients before it."""
        dot, squares, mean_squares = 0.0, 0.0, 0.0
        for parameter in self._parameters.values():
            mean = self._optimiser.state.get(parameter, {}).get("exp_avg")
            if mean is None or parameter.grad is None:
                continue
            dot += float((mean * parameter.grad).sum())
            squares += float(parameter.grad.square().sum())
            mean_squares += float(mean.square().sum())
        scale = math.sqrt(squares * mean_squares)
        return dot / scale if scale else math.nan

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

    def _means(self, tallies: Sequence[_Tally], names: Sequence[str]) -> dict[str, float]:
        """Means of the sums of these names over all processes."""
        device = self._transformer.device
        zero = torch.zeros((), device=device)
        wanted = (*names, "count")
        sums = torch.stack([torch.stack([tally.sums.get(name, zero) for tally in tallies]).sum() for name in wanted])
        *values, count = self._processes.sum(sums.double() if device.type != "mps" else sums).tolist()
        return {name: value / count if count else math.nan for name, value in zip(names, values, strict=True)}
