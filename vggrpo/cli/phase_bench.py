"""``bench`` (``bench phases``): what the phases of a training take at true sizes, against the device's matrix rate.

The phases are the trainer's own functions: ``collect`` for the rollout, both reward spaces, ``Learner.improve`` for the
update. Operations come from a dry run of the same code (``vggrpo.planning``), so TFLOP/s and the share of the rate at
which this device multiplies large matrices are of the work that was done. Memory is what a phase holds at most beyond
the weights; the rewards' weights are told beside it, since the two routes need different models.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.table import Table

from vggrpo.cli.commands import Bench
from vggrpo.cli.reward_bench import Stopwatch
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.presets import Preset, get_preset
from vggrpo.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vggrpo.generation.architecture import Architecture
    from vggrpo.generation.models import Models

TRUE_FRAMES = (33, 81)
"""Lengths that are measured of a released model, at its own height and width."""
SHRUNK_FRAMES = (17,)
"""Of a shrunk one: the smallest geometry model orders 32 frames."""
_STEPS = 4
_GIB = 2**30
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCost:
    """One phase, measured: for ``videos`` videos and ``passes`` passes of each."""

    name: str
    seconds: float
    tensors_gib: float
    weights_gib: float
    tflop: float
    videos: int
    passes: int

    def to_json(self, *, rate: float) -> dict[str, object]:
        """Rounded to what was measured; ``rate`` in FLOP/s."""
        reached = self.tflop * 1e12 / self.seconds
        return {
            "videos": self.videos,
            "passes": self.passes,
            "seconds": round(self.seconds, 4),
            "seconds_a_pass_and_video": round(self.seconds / (self.videos * self.passes), 5),
            "tensors_gib": round(self.tensors_gib, 4),
            "weights_gib": round(self.weights_gib, 4),
            "tflop": round(self.tflop, 5),
            "tflops": round(reached / 1e12, 5),
            "share_of_matrix_rate": round(reached / rate, 4),
        }


def bench_phases(command: Bench) -> Outcome:
    """Measure every phase at every length."""
    preset = get_preset(command.preset)
    _require_possible(command, preset)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation.models import load_models, random_models
        from vggrpo.planning.machine import measure_matrix_rate, this_machine
        from vggrpo.runtime.device import choose_device, choose_dtype, set_threads

        device = choose_device()
        _require_gpu(command, preset, device)
        set_threads("background")
        subject = _subject(command, preset)
        models = random_models(preset, subject.architecture) if command.random_weights else load_models(preset)
        progress.phase("matrix rate")
        rate = measure_matrix_rate(models.device, choose_dtype(models.device))
        sizes = {}
        for sized in subject.sizes:
            progress.phase(f"{sized.width}×{sized.height}, {sized.num_frames} frames")
            config = _settings(command, sized)
            costs = _Measurement(
                preset=sized, config=config, models=models, architecture=subject.architecture, repeats=command.repeats
            ).costs()
            sizes[f"{sized.width}x{sized.height}x{sized.num_frames}"] = _size_result(costs, rate=rate)
        machine = this_machine(device=models.device)
    result = {
        "preset": preset.name,
        "random_weights": command.random_weights,
        "scale": command.scale,
        "device": machine.name,
        "matrix_tflops": round(rate / 1e12, 4),
        "sizes": sizes,
    }
    return Outcome(result=result, shown=_table(result))


def _require_possible(command: Bench, preset: Preset) -> None:
    if command.repeats < 1:
        raise UserError(f"{command.repeats} warm runs were asked for; give at least 1.")
    if command.scale < 1:
        raise UserError(f"--scale is {command.scale}; give 1 (true sizes) or more.")
    if command.scale > 1 and not (command.random_weights and preset.is_released_model):
        raise UserError("--scale shrinks a released model of random numbers: give its --preset and --random-weights.")
    if command.micro_batch is not None and command.micro_batch < 1:
        raise UserError(f"--micro-batch is {command.micro_batch}; give at least 1.")


def _require_gpu(command: Bench, preset: Preset, device: "torch.device") -> None:
    if preset.is_released_model and command.scale == 1 and device.type == "cpu":
        raise UserError(
            f"{preset.name} at its true size takes hours on a CPU, and there is no GPU here: add --random-weights "
            "--scale 8 to try the command on a model and videos an eighth the size."
        )


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is measured: models by their sizes, and the videos' sizes."""

    architecture: "Architecture"
    sizes: tuple[Preset, ...]


def _subject(command: Bench, preset: Preset) -> _Subject:
    from vggrpo.generation.architecture import architecture_of

    architecture = architecture_of(preset)
    if not preset.is_released_model:
        return _Subject(architecture=architecture, sizes=(preset,))
    side = 2 * preset.spatial_factor
    height, width = (max(side, pixels // command.scale // side * side) for pixels in (preset.height, preset.width))
    lengths = TRUE_FRAMES if command.scale == 1 else SHRUNK_FRAMES
    sizes = tuple(preset.sized(height=height, width=width, frames=frames) for frames in lengths)
    return _Subject(
        architecture=architecture if command.scale == 1 else _shrunk(architecture, command.scale), sizes=sizes
    )


def _shrunk(architecture: "Architecture", scale: int) -> "Architecture":
    """The same architecture with fewer and narrower layers; the geometry model is the smallest one."""
    transformer, vae = dict(architecture.sizes.transformer), dict(architecture.sizes.vae)
    for name, least in (("num_layers", 2), ("num_attention_heads", 1), ("ffn_dim", 32), ("text_dim", 32)):
        transformer[name] = max(least, transformer[name] // scale)
    for name in ("base_dim", "decoder_base_dim"):
        if vae.get(name):
            vae[name] = max(8, vae[name] // scale // 8 * 8)
    sizes = replace(architecture.sizes, transformer=transformer, vae=vae)
    return replace(architecture, sizes=sizes, geometry_size="debug", latent_geometry=None)


def _settings(command: Bench, preset: Preset) -> GrpoConfig:
    """The preset's own settings, with one group of one micro-batch, few steps, and one of them trained."""
    defaults = training_defaults(preset.name)
    batch = command.micro_batch or min(defaults.micro_batch, defaults.group_size)
    return replace(
        defaults,
        height=preset.height if preset.is_released_model else None,
        width=preset.width if preset.is_released_model else None,
        frames=preset.num_frames if preset.is_released_model else None,
        micro_batch=batch,
        group_size=max(batch, 2),
        groups=1,
        updates=1,
        steps=max(command.steps or _STEPS, 2),
        window_size=1,
        window_first=0,
        window_end=1,
        # What is measured is the work, not what is learnt: with random weights no ratio means anything.
        ratio_tolerance=1.0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taken:
    """Seconds of the fastest warm run, and the most that it held beyond what was there."""

    seconds: float
    tensors_gib: float


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """All phases of one size."""

    preset: Preset
    config: GrpoConfig
    models: "Models"
    architecture: "Architecture"
    repeats: int

    def costs(self) -> list[PhaseCost]:
        """Measure; the transformer comes back without its adapter."""
        from vggrpo.grpo.memory_errors import is_out_of_memory
        from vggrpo.grpo.transformer_options import as_configured
        from vggrpo.policy.adapter import add_adapter

        transformer = self.models.transformer
        try:
            with as_configured(transformer, self.config):
                add_adapter(transformer, self.config.lora_settings, seed=_SEED)
                found = self._policy_costs()
            return [*found, *self._reward_costs()]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = f"{self.preset.width}×{self.preset.height}×{self.preset.num_frames}"
            raise UserError(
                f"out of memory at {size}: give a lower --micro-batch than {self.config.micro_batch}."
            ) from error

    def _policy_costs(self) -> list[PhaseCost]:
        """Rollout and update of one group."""
        import torch

        from vggrpo.grpo.learner import Learner
        from vggrpo.grpo.lesson import Lesson
        from vggrpo.grpo.policy_gradient import LOGGED, JudgedGroup, window_batches
        from vggrpo.grpo.processes import Processes
        from vggrpo.planning.costs import policy_costs
        from vggrpo.policy.rollout import collect
        from vggrpo.policy.sampling import Conditions
        from vggrpo.runtime.allocation import weights_mb

        config, transformer = self.config, self.models.transformer
        shape, tokens, count = self.preset.latent_shape, self.preset.max_tokens, config.group_size
        width = self.architecture.sizes.transformer["text_dim"]
        text = torch.randn(1, tokens, width, device=transformer.device, dtype=transformer.dtype)
        conditions = Conditions(text=text, negative=text, guidance=config.guidance)
        settings = config.rollout_settings

        def roll() -> object:
            return collect(transformer, conditions, settings, shape=shape, group=0, seed=_SEED, count=count)

        rolled = self._taken(roll)
        rollout = collect(transformer, conditions, settings, shape=shape, group=0, seed=_SEED, count=count)
        group = JudgedGroup(
            rollout=rollout.to(torch.device("cpu")),
            conditions=conditions,
            advantages=torch.linspace(-1.0, 1.0, count),
            usable=torch.ones(count, dtype=torch.bool),
        )
        window = window_batches(group, rollout=settings, surrogate=config.surrogate_settings)
        lesson = Lesson(batches=window, logged=LOGGED, metrics={}, has_ratio=True)
        with tempfile.TemporaryDirectory(prefix="vggrpo-bench-") as folder:
            learner = Learner(transformer, config, Processes.open(device=transformer.device, out=Path(folder)))
            updated = self._taken(lambda: learner.improve(lesson, check_ratio=False))
        planned = policy_costs(self.architecture, config, shape=shape, tokens=tokens, dtype=transformer.dtype)
        batches = count / config.micro_batch
        weights = weights_mb(transformer) / 1024
        drawn = batches * planned.rollout_step.flops * config.steps
        trained = batches * (planned.reference_step.flops + planned.replay_step.flops)
        return [
            _cost("rollout", rolled, weights_gib=weights, flops=drawn, videos=count, passes=config.steps),
            _cost("update", updated, weights_gib=weights, flops=trained, videos=count, passes=1),
        ]

    def _reward_costs(self) -> list[PhaseCost]:
        """Both routes to rewards, each over one reward batch."""
        import torch

        from vggrpo.grpo.reward_space import LatentRewards, RgbRewards
        from vggrpo.planning.costs import decoder_costs, image_reader_costs, latent_reader_costs
        from vggrpo.runtime.allocation import weights_mb
        from vggrpo.types import Latents

        models, preset, architecture = self.models, self.preset, self.architecture
        count, shape = min(self.config.reward_batch, self.config.group_size), preset.latent_shape
        latents = Latents(tensor=torch.randn(count, *shape, device=models.device))
        by_latents = LatentRewards(latent_geometry=models.latent_geometry, micro_batch=count)
        by_video = RgbRewards(decode=models.vae.decode_normalised, geometry=models.geometry_of_video, micro_batch=count)
        from_latents = self._taken(lambda: by_latents.score(latents))
        from_video = self._taken(lambda: by_video.score(latents))
        size = (preset.num_frames, preset.height, preset.width)
        fp32 = torch.float32
        reading = latent_reader_costs(architecture, shape=shape, videos=count, dense_frames=None, dtype=fp32).read
        seeing = image_reader_costs(architecture, size=size, videos=count, dense_frames=None, dtype=fp32)
        decoding = decoder_costs(architecture, shape=shape, videos=count, dtype=fp32)
        seen = seeing.read.flops + decoding.decode.flops
        latent_gib = weights_mb(models.latent_geometry) / 1024
        video_gib = weights_mb(models.vae.model, cast("nn.Module", models.geometry)) / 1024
        return [
            _cost("latent reward", from_latents, weights_gib=latent_gib, flops=reading.flops, videos=count, passes=1),
            _cost("rgb reward", from_video, weights_gib=video_gib, flops=seen, videos=count, passes=1),
        ]

    def _taken(self, work: Callable[[], object]) -> _Taken:
        """The first run pays for what is made once, and is not timed."""
        from vggrpo.runtime.allocation import peak_allocation_mb

        watch = Stopwatch(self.models.device)
        work()
        seconds = []
        for _ in range(self.repeats):
            began = watch.now()
            work()
            seconds.append(watch.now() - began)
        return _Taken(seconds=min(seconds), tensors_gib=peak_allocation_mb(work, device=self.models.device) / 1024)


def _cost(name: str, taken: _Taken, *, weights_gib: float, flops: float, videos: int, passes: int) -> PhaseCost:
    return PhaseCost(
        name=name,
        seconds=taken.seconds,
        tensors_gib=taken.tensors_gib,
        weights_gib=weights_gib,
        tflop=flops / 1e12,
        videos=videos,
        passes=passes,
    )


def _size_result(costs: Sequence[PhaseCost], *, rate: float) -> dict[str, object]:
    """Phases, and what the latent route takes of the one through decoded video."""
    by_name = {cost.name: cost for cost in costs}
    latent, rgb = by_name["latent reward"], by_name["rgb reward"]
    return {
        "phases": {name: cost.to_json(rate=rate) for name, cost in by_name.items()},
        "latent_over_rgb": {
            "seconds": round(latent.seconds / rgb.seconds, 4),
            "tensors": round(latent.tensors_gib / rgb.tensors_gib, 4),
            "added_memory": round((latent.tensors_gib + latent.weights_gib) / (rgb.tensors_gib + rgb.weights_gib), 4),
        },
    }


def _table(result: Mapping[str, object]) -> Table:
    """A row a phase and size; the two ratios that the method is about below each size."""
    sizes = result["sizes"]
    assert isinstance(sizes, dict), "built above"
    scaled = f", all sizes / {result['scale']}" if result["scale"] != 1 else ""
    weights = "random weights" if result["random_weights"] else "its weights"
    title = f"{result['preset']}, {weights}{scaled}, {result['device']}: {result['matrix_tflops']} TFLOP/s in products"
    table = Table(title=title, title_justify="left")
    for heading in ("phase", "videos × passes"):
        table.add_column(heading)
    for heading in ("s", "added GiB", "weights GiB", "TFLOP/s", "of the rate"):
        table.add_column(heading, justify="right")
    for size, found in sizes.items():
        table.add_row(f"[bold]{size}[/bold]")
        for name, phase in found["phases"].items():
            table.add_row(
                name,
                f"{phase['videos']} × {phase['passes']}",
                f"{phase['seconds']:.3f}",
                f"{phase['tensors_gib']:.3f}",
                f"{phase['weights_gib']:.3f}",
                f"{phase['tflops']:.3g}",
                f"{phase['share_of_matrix_rate']:.1%}",
            )
        ratio = found["latent_over_rgb"]
        table.add_row("latent / rgb", "", f"{ratio['seconds']:.3f}", f"{ratio['tensors']:.3f}", "", "", "")
        table.add_row("latent / rgb, with weights", "", "", f"{ratio['added_memory']:.3f}", "", "", "")
        table.add_section()
    return table
