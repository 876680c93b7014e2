"""One training loop for every model of the project: fp32 masters, EMA, atomic checkpoints, exact resume.

Each step draws its randomness from (seed, step) alone, so a resumed run sees the same numbers as an uninterrupted one
and no generator state has to be stored. Models may be held in bf16: gradients are added up and applied in fp32 to
master weights (on CPUs with bf16 matrix units several times faster than autocast).
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vggrpo.runtime.checkpoint_folder import building_checkpoint, checkpoint_folder, checkpoint_folders
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text, require_writable
from vggrpo.runtime.optimisers import STATE, OptimiserName, build_optimisers
from vggrpo.runtime.stop_signals import StopSignals

MAX_SKIPPED = 5
"""Non-finite steps in a row after which training stops, with its last good checkpoint kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how fast: linear warm-up, then cosine decay to ``final_learning_rate`` × the peak."""

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    final_learning_rate: float = 0.05
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = 1.0
    optimiser: OptimiserName = "adamw"
    ema_decay: float = 0.0
    """0 keeps no average."""
    seed: int = 0
    checkpoint_every: int = 200
    sample_every: int = 0
    """0 takes no samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a loss function is given: the step's number and its own random generators."""

    index: int
    fraction: float
    """How far the run has come, in [0, 1)."""
    rng: np.random.Generator
    generator: torch.Generator

    @classmethod
    def of(cls, index: int, config: LoopConfig) -> "Step":
        """Generators that depend on (seed, step) only."""
        rng = np.random.default_rng([config.seed, index, 0x57E9])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return cls(index=index, fraction=index / config.steps, rng=rng, generator=generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """Where a run ended."""

    steps_done: int
    finished: bool
    """False when it was asked to stop before the last step."""
    seconds: float
    last_metrics: Mapping[str, float] = field(default_factory=dict)


LossFunction = Callable[[Step], dict[str, Tensor]]
"""Losses of one step by name; ``"loss"`` is the one that is minimised, the others are logged."""
SampleFunction = Callable[[int], None]


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(config.steps - config.warmup_steps, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min((step - config.warmup_steps) / span, 1.0)))
    return config.learning_rate * (config.final_learning_rate + (1.0 - config.final_learning_rate) * cosine)


class TrainingLoop:
    """Trains the trainable parameters of some modules; see the module's text.

    ``modules`` are named, so that checkpoints are readable: keys are ``<module>.<parameter>``.
    """

    def __init__(self, modules: Mapping[str, nn.Module], config: LoopConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self._parameters = {
            f"{module_name}.{name}": parameter
            for module_name, module in modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        if not self._parameters:
            raise UserError("There is nothing to train: no parameter asks for gradients.")
        self._masters = {name: p.detach().float().clone().requires_grad_() for name, p in self._parameters.items()}
        self._ema = {n: m.detach().clone() for n, m in self._masters.items()} if config.ema_decay else {}
        self._optimisers = build_optimisers(
            self._masters,
            name=config.optimiser,
            learning_rate=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self._owners = {
            master: optimiser
            for optimiser in self._optimisers
            for group in optimiser.param_groups
            for master in group["params"]
        }
        self._step = 0
        self._seconds_before = 0.0

    def run(self, losses: LossFunction, *, resume: bool, sample: SampleFunction | None = None) -> TrainingResult:
        """Train to the configured number of steps. SIGTERM and Ctrl-C finish the step, checkpoint and return."""
        self._open(resume=resume)
        started = time.monotonic()
        metrics: dict[str, float] = {}
        with StopSignals() as stop, self._progress() as progress:
            task = progress.add_task("training", total=self.config.steps, completed=self._step)
            skipped = 0
            while self._step < self.config.steps and not stop.asked:
                metrics = self._train_step(losses)
                skipped = skipped + 1 if metrics["skipped"] else 0
                self._log(metrics)
                if skipped >= MAX_SKIPPED:
                    message = f"{skipped} steps in a row were not finite; the last good checkpoint is in {self.out}"
                    raise UserError(f"{message}: lower the learning rate and run again with --resume.")
                progress.update(task, completed=self._step, description=f"loss {metrics['loss']:.4f}")
                seconds = self._seconds_before + time.monotonic() - started
                if self._step % self.config.checkpoint_every == 0 and not skipped:
                    self._save(seconds)
                if sample and self.config.sample_every and self._step % self.config.sample_every == 0:
                    sample(self._step)
            seconds = self._seconds_before + time.monotonic() - started
            self._save(seconds)
        finished = self._step >= self.config.steps
        return TrainingResult(steps_done=self._step, finished=finished, seconds=seconds, last_metrics=metrics)

    def use_ema(self) -> None:
        """Copy the averaged weights into the modules (for export; training would go on from the masters)."""
        for name, average in self._ema.items():
            self._parameters[name].data.copy_(average)

    def use_masters(self) -> None:
        """Copy the trained weights back into the modules."""
        for name, master in self._masters.items():
            self._parameters[name].data.copy_(master.data)

    def _train_step(self, losses: LossFunction) -> dict[str, float]:
        began = time.monotonic()
        rate = learning_rate_at(self._step, self.config)
        values = losses(Step.of(self._step, self.config))
        values["loss"].backward()
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            self._masters[name].grad = None if gradient is None else gradient.float()
            parameter.grad = None
        norm = float(nn.utils.clip_grad_norm_(list(self._masters.values()), self.config.gradient_clip))
        finite = math.isfinite(norm) and bool(torch.isfinite(values["loss"]))
        if finite:
            for optimiser in self._optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
            self.use_masters()
            self._update_ema()
        self._step += 1
        logged = {name: float(value.detach()) for name, value in values.items()}
        extra = {"grad_norm": norm, "lr": rate, "skipped": float(not finite), "time/step": time.monotonic() - began}
        return logged | extra

    def _update_ema(self) -> None:
        # The average starts short and lengthens, so early weights do not linger.
        decay = min(self.config.ema_decay, (1.0 + self._step) / (10.0 + self._step))
        for name, average in self._ema.items():
            average.lerp_(self._masters[name].data, 1.0 - decay)

    def _open(self, *, resume: bool) -> None:
        checkpoints = checkpoint_folders(self.out)
        if checkpoints and not resume:
            raise UserError(f"{self.out} already holds a training run: add --resume, or choose another output folder.")
        require_writable(self.out)
        (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        for index, path in reversed(list(enumerate(checkpoints))):
            if self._load(path):
                # Unreadable newer ones would keep their place when the run comes there again.
                for broken in checkpoints[index + 1 :]:
                    shutil.rmtree(broken)
                return
        if checkpoints:
            raise UserError(f"No checkpoint in {self.out} can be read: choose another output folder and start again.")
        # A run that died before its first checkpoint starts again, and so does its log.
        self._trim_log()

    def _save(self, seconds: float) -> None:
        if checkpoint_folder(self.out, step=self._step).exists():
            return
        tensors = {f"master/{name}": master.detach() for name, master in self._masters.items()}
        tensors |= {f"ema/{name}": average for name, average in self._ema.items()}
        for name, master in self._masters.items():
            state = self._owners[master].state.get(master, {})
            tensors |= {f"optimiser/{key}/{name}": torch.as_tensor(value) for key, value in state.items()}
        state = {"step": self._step, "seconds": round(seconds, 1), "steps": self.config.steps}
        with building_checkpoint(self.out, step=self._step) as building:
            save_file(tensors, building / "state.safetensors")
            (building / "state.json").write_text(json.dumps(state))

    def _load(self, folder: Path) -> bool:
        """Take a checkpoint; False if it cannot be read, so that an older one is tried."""
        try:
            tensors = load_file(folder / "state.safetensors")
            state = json.loads((folder / "state.json").read_text())
        except (OSError, SafetensorError, json.JSONDecodeError):
            return False
        names = {key.removeprefix("master/") for key in tensors if key.startswith("master/")}
        if names != set(self._masters):
            raise UserError(f"{folder} belongs to a model of another shape: choose another output folder.")
        for name, master in self._masters.items():
            stored = tensors[f"master/{name}"]
            if stored.shape != master.shape:
                raise UserError(f"{folder}: {name} is {list(stored.shape)}, this model has {list(master.shape)}.")
            master.data.copy_(stored)
            if name in self._ema:
                self._ema[name].copy_(tensors.get(f"ema/{name}", stored))
            moments = {key: tensors[f"optimiser/{key}/{name}"] for key in STATE if f"optimiser/{key}/{name}" in tensors}
            if moments:
                # AdamW counts steps on the CPU; averages lie beside the weights.
                averages = {key: moment.to(master.device) for key, moment in moments.items() if key != "step"}
                self._owners[master].state[master] = {**moments, **averages}
        self._step = int(state["step"])
        self._seconds_before = float(state["seconds"])
        self.use_masters()
        self._trim_log()
        return True

    def _trim_log(self) -> None:
        """Drop logged steps that come after the checkpoint: they will be done again. So will a half-written line."""
        path = self.out / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["step"] <= self._step]
            atomic_write_text(path, "".join(kept))

    def _log(self, metrics: Mapping[str, float]) -> None:
        rounded = {name: (round(value, 6) if math.isfinite(value) else None) for name, value in metrics.items()}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self._step, **rounded}) + "\n")

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        threads = TextColumn(f"{torch.get_num_threads()} thread(s)")
        return Progress(*columns, threads, console=Console(stderr=True), speed_estimate_period=600)
