"""``bench train``: seconds an iteration by phase and peak memory, and how both grow.

One setting is changed at a time against the preset's own: twice the denoising steps (the window stays), and half the
group. Update time and memory should not notice steps outside the window, and everything should be linear in the group.
Each variant is a training of its own with one group an iteration; the first iteration warms up, the fastest of the
others is shown.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from vggrpo.cli.commands import Bench
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.grpo.prompts import choose_prompts
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError

PHASES = ("rollout", "guard", "reward", "update", "iteration")
_PROMPTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one iteration of one group: seconds by phase, and the process's peak memory in MiB."""

    seconds: Mapping[str, float]
    peak_mb: float


def bench_train(command: Bench) -> Outcome:
    """Train each variant for a few iterations."""
    if command.repeats < 1:
        raise UserError(f"{command.repeats} warm runs were asked for; give at least 1.")
    base = _base(command)
    variants = {
        "base": base,
        "steps": replace(base, steps=2 * base.steps),
        "group": replace(base, group_size=base.group_size // 2),
    }
    with PhaseProgress() as progress:
        progress.phase("load")
        import torch

        from vggrpo.generation.tuning import load_grpo_models
        from vggrpo.grpo.models import GrpoModels
        from vggrpo.grpo.trainer import train
        from vggrpo.runtime.memory import reset_peak_memory

        models: GrpoModels = load_grpo_models(base)
        prompts = choose_prompts(
            training_file=None, evaluation_file=None, training_captions=_PROMPTS, evaluation_clips=1
        )
        costs = {}
        for name, config in variants.items():
            progress.phase(f"{config.steps} steps, groups of {config.group_size}")
            with tempfile.TemporaryDirectory(prefix="vggrpo-bench-") as folder:
                reset_peak_memory(models.device)
                train(config, models, prompts=prompts, out=Path(folder) / name)
                costs[name] = read_cost(Path(folder) / name)
        result = _result(variants, costs, threads=torch.get_num_threads(), device=str(models.device))
    return Outcome(result=result, shown=_table(result))


def _base(command: Bench) -> GrpoConfig:
    """The preset's settings, without everything that is not part of an iteration."""
    defaults = training_defaults(get_preset(command.preset).name)
    size = defaults.group_size - defaults.group_size % 2
    return replace(
        defaults,
        iterations=command.repeats + 1,
        steps=defaults.steps if command.steps is None else command.steps,
        groups=1,
        group_size=max(size, 4),
        # One size for all variants: half a group must not run in smaller batches.
        micro_batch=min(defaults.micro_batch, max(size, 4) // 2),
        evaluate_every=0,
        sample_every=0,
        checkpoint_every=command.repeats + 1,
        max_skipped=command.repeats + 2,
    )


def read_cost(out: Path) -> Cost:
    """The fastest warm iteration of a finished run that updated anything.

    Where none did (no video could be judged, as on the debug preset it happens), update and iteration are left out.
    """
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    warm = rows[1:] or rows
    updated = [row for row in warm if row["update/applied"]]
    fastest = min(updated or warm, key=lambda row: row["time/iteration"])
    told = PHASES if updated else tuple(phase for phase in PHASES if phase not in {"update", "iteration"})
    seconds = {phase: fastest[f"time/{phase}"] for phase in told if f"time/{phase}" in fastest}
    return Cost(seconds=seconds, peak_mb=max(row["memory/peak_mb"] for row in rows))


def _result(
    variants: Mapping[str, GrpoConfig], costs: Mapping[str, Cost], *, threads: int, device: str
) -> dict[str, object]:
    base = costs["base"]
    return {
        "preset": variants["base"].preset,
        "device": device,
        "threads": threads,
        "variants": {
            name: {
                "steps": config.steps,
                "group_size": config.group_size,
                "window": config.window_size,
                "seconds": dict(costs[name].seconds),
                "peak_mb": costs[name].peak_mb,
            }
            for name, config in variants.items()
        },
        "ratios": {
            "twice the steps": _ratios(costs["steps"], base),
            "twice the group": _ratios(base, costs["group"]),
        },
    }


def _ratios(more: Cost, less: Cost) -> dict[str, float]:
    """How many times as much, by phase and for the memory."""
    shared = [phase for phase in more.seconds if phase in less.seconds]
    phases = {phase: round(more.seconds[phase] / max(less.seconds[phase], 1e-3), 2) for phase in shared}
    return {**phases, "peak_mb": round(more.peak_mb / less.peak_mb, 2)}


def _table(result: Mapping[str, object]) -> Table:
    variants, ratios = result["variants"], result["ratios"]
    assert isinstance(variants, dict), "built above"
    assert isinstance(ratios, dict), "built above"
    title = f"train, {result['preset']}, one group an iteration, {result['device']}, {result['threads']} threads"
    table = Table(title=title, title_justify="left")
    table.add_column("seconds")
    for variant in variants.values():
        table.add_column(f"K = {variant['group_size']}, {variant['steps']} steps", justify="right")
    for name in ratios:
        table.add_column(f"× for {name}", justify="right")
    for phase in PHASES:
        seconds = [_shown(variant["seconds"], phase) for variant in variants.values()]
        table.add_row(phase, *seconds, *(_shown(ratio, phase) for ratio in ratios.values()))
    memory = [f"{variant['peak_mb']:.0f}" for variant in variants.values()]
    table.add_row("peak memory, MiB", *memory, *(f"{ratio['peak_mb']:.2f}" for ratio in ratios.values()))
    return table


def _shown(numbers: Mapping[str, float], name: str) -> str:
    return f"{numbers[name]:.2f}" if name in numbers else "–"
