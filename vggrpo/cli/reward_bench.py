"""``bench reward``: what rewards cost when they are read from latents, and when a video is decoded for them.

Both routes judge the same latents in one run. Times are the fastest of some runs after a first one; memory is the
weights that the route needs plus the most that its tensors take at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar, cast

from rich.table import Table

from vggrpo.cli.command_line import shown_command
from vggrpo.cli.commands import Bench
from vggrpo.cli.recording import loaded_weights
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

    from vggrpo.generation import Studio
    from vggrpo.types import Latents

BENCH_PROMPT = "a red sphere and a blue cube on a grey checkered floor, the camera orbits left"
MAX_VIDEOS = 64
NAME = "cost"
"""Kind and name of the recorded result."""
PHASES = ("decode", "geometry", "judge")
_ROWS = (
    ("seconds", "total, s", 3),
    ("processor_seconds", "processor, s", 3),
    ("weights_mb", "weights, MiB", 1),
    ("tensors_mb", "tensors, MiB", 1),
    ("peak_mb", "peak, MiB", 1),
)

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass
class Stopwatch:
    """Seconds of the phases that were timed since ``clear``."""

    device: "torch.device"
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, phase: str, work: Callable[[Given], Made]) -> Callable[[Given], Made]:
        """``work``, with its time added to a phase."""

        def run(given: Given) -> Made:
            began = self.now()
            made = work(given)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + self.now() - began
            return made

        return run

    def now(self) -> float:
        """The time when everything that was started is done: a GPU works on after a call returns."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to rewards: ``score`` with its phases on the stopwatch, and the MiB of the models it needs.

    Beside the clock on the wall runs that of the processor: what other processes take of the machine is not in it.
    """

    name: str
    score: Callable[["Latents"], "dict[str, Tensor]"]
    stopwatch: Stopwatch
    weights_mb: float

    def time(self, latents: "Latents") -> dict[str, float]:
        """Seconds of one run by phase, in all, and of the processor."""
        self.stopwatch.seconds.clear()
        processor = time.process_time()
        began = self.stopwatch.now()
        self.score(latents)
        total = self.stopwatch.now() - began
        phases = dict(self.stopwatch.seconds)
        judge = total - sum(phases.values())
        return phases | {"judge": judge, "total": total, "processor": time.process_time() - processor}


@dataclass(frozen=True, kw_only=True)
class RouteCost:
    """What a route took for all videos, and the means of what it found (None: no video could be judged)."""

    phases: dict[str, float]
    seconds: float
    processor_seconds: float
    weights_mb: float
    tensors_mb: float
    rewards: dict[str, float | None]

    @property
    def peak_mb(self) -> float:
        """Weights and tensors together."""
        return self.weights_mb + self.tensors_mb

    def to_json(self) -> dict[str, object]:
        """Rounded to what was measured."""
        return {
            "seconds": round(self.seconds, 4),
            "processor_seconds": round(self.processor_seconds, 4),
            "phases": {phase: round(seconds, 4) for phase, seconds in self.phases.items()},
            "weights_mb": round(self.weights_mb, 1),
            "tensors_mb": round(self.tensors_mb, 1),
            "peak_mb": round(self.peak_mb, 1),
            "rewards": self.rewards,
        }


def bench_reward(command: Bench) -> Outcome:
    """Time and peak memory of both routes, and their ratio."""
    if command.repeats < 1:
        raise UserError(f"{command.repeats} warm runs were asked for; give at least 1.")
    if not 1 <= command.videos <= MAX_VIDEOS:
        raise UserError(f"{command.videos} videos were asked for; give 1 to {MAX_VIDEOS}.")
    get_preset(command.preset)
    began = time.monotonic()
    with PhaseProgress() as progress:
        progress.phase("load")
        import torch

        from vggrpo.generation import GenerateRequest, Studio
        from vggrpo.generation.batch import denoise_batch

        studio = Studio.load(command.preset)
        progress.phase("denoise")
        request = GenerateRequest(prompt=BENCH_PROMPT, preset=command.preset, steps=command.steps)
        latents = denoise_batch(studio, [replace(request, seed=seed) for seed in range(command.videos)])
        routes = make_routes(studio, micro_batch=command.videos)
        latent, rgb = measure_routes(routes, latents, repeats=command.repeats, progress=progress)
    result = {
        "preset": command.preset,
        "videos": command.videos,
        "device": str(studio.models.device),
        "threads": torch.get_num_threads(),
        "latent": latent.to_json(),
        "rgb": rgb.to_json(),
        "ratio": {
            "seconds": round(latent.seconds / rgb.seconds, 4),
            "processor_seconds": round(latent.processor_seconds / rgb.processor_seconds, 4),
            "peak_mb": round(latent.peak_mb / rgb.peak_mb, 4),
        },
    }
    if command.record:
        _record(command, studio, result, seconds=time.monotonic() - began)
    title = f"rewards of {command.videos} videos, {command.preset}, {result['device']}, {result['threads']} threads"
    return Outcome(result=result, shown=_table(latent, rgb, title=title))


def _record(command: Bench, studio: "Studio", result: Mapping[str, object], *, seconds: float) -> None:
    """Among the results that ship, for the figure of costs."""
    from vggrpo.evaluation.results import Result, result_path, take_provenance, write_result

    provenance = take_provenance(
        shown_command(command, words="bench reward"),
        preset=command.preset,
        device=studio.models.device,
        seconds=seconds,
        seeds={"first_video": 0},
        weights=loaded_weights(studio.models, ("vae", "transformer", "geometry", "latent_geometry")),
    )
    write_result(result_path(NAME), Result(kind=NAME, provenance=provenance, content=result))


def make_routes(studio: "Studio", *, micro_batch: int) -> tuple[Route, Route]:
    """The latent and the RGB route over a studio's models."""
    from vggrpo.grpo.reward_space import LatentRewards, RgbRewards
    from vggrpo.runtime.allocation import weights_mb

    models = studio.models
    latent, rgb = Stopwatch(models.device), Stopwatch(models.device)
    by_latents = LatentRewards(
        latent_geometry=latent.timed("geometry", models.latent_geometry), micro_batch=micro_batch
    )
    by_video = RgbRewards(
        decode=rgb.timed("decode", studio.vae.decode_normalised),
        geometry=rgb.timed("geometry", studio.geometry_from_video),
        micro_batch=micro_batch,
    )
    return (
        Route(name="latent", score=by_latents.score, stopwatch=latent, weights_mb=weights_mb(models.latent_geometry)),
        Route(
            name="rgb",
            score=by_video.score,
            stopwatch=rgb,
            weights_mb=weights_mb(studio.vae.model, cast("Module", models.geometry)),
        ),
    )


def measure_routes(
    routes: Sequence[Route], latents: "Latents", *, repeats: int, progress: PhaseProgress
) -> list[RouteCost]:
    """Rewards, seconds and memory of every route.

    First runs pay for what is made once, and are not timed. Then the routes take turns, so that a machine that becomes
    busy meanwhile slows all of them.
    """
    progress.phase("first runs")
    rewards = [route.score(latents) for route in routes]
    runs: list[list[dict[str, float]]] = [[] for _ in routes]
    for index in range(repeats):
        progress.phase(f"run {index + 1} of {repeats}")
        for route, timed in zip(routes, runs, strict=True):
            timed.append(route.time(latents))
    progress.phase("memory")
    return [_cost(*measured, latents=latents) for measured in zip(routes, runs, rewards, strict=True)]


def _cost(
    route: Route, runs: Sequence[dict[str, float]], rewards: "dict[str, Tensor]", *, latents: "Latents"
) -> RouteCost:
    """The fastest run of a route, and its memory."""
    from vggrpo.runtime.allocation import peak_allocation_mb

    fastest = min(runs, key=lambda run: run["total"])
    return RouteCost(
        phases={phase: fastest[phase] for phase in PHASES if phase in fastest},
        seconds=fastest["total"],
        processor_seconds=min(run["processor"] for run in runs),
        weights_mb=route.weights_mb,
        tensors_mb=peak_allocation_mb(lambda: route.score(latents), device=route.stopwatch.device),
        rewards={name: _mean(values) for name, values in rewards.items()},
    )


def _mean(values: "Tensor") -> float | None:
    """Over the videos that could be judged."""
    judged = values[values.isfinite()]
    return round(judged.mean().item(), 6) if len(judged) else None


def _table(latent: RouteCost, rgb: RouteCost, *, title: str) -> Table:
    """Both routes side by side."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("latent", "rgb", "latent / rgb"):
        table.add_column(heading, justify="right")
    for phase in PHASES:
        sides = (latent.phases.get(phase), rgb.phases.get(phase))
        table.add_row(f"{phase}, s", *(_shown(side, digits=3) for side in sides), _ratio(*sides))
    for name, label, digits in _ROWS:
        sides = (getattr(latent, name), getattr(rgb, name))
        table.add_row(label, *(_shown(side, digits=digits) for side in sides), _ratio(*sides))
    table.add_section()
    for name, value in latent.rewards.items():
        values = (_shown(side, digits=4) for side in (value, rgb.rewards[name]))
        table.add_row(f"mean {name.replace('_', ' ')}", *values, "")
    return table


def _shown(value: float | None, *, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _ratio(latent: float | None, rgb: float | None) -> str:
    return f"{latent / rgb:.3f}" if latent is not None and rgb else "–"
