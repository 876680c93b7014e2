"""``plan``: what a training takes, before anything is loaded; and ``train``'s refusal of what cannot fit."""

from typing import TYPE_CHECKING

from rich.table import Table

from vggrpo.cli.commands import Plan as PlanCommand
from vggrpo.cli.terminal import Outcome, PhaseProgress, note
from vggrpo.grpo.config import GrpoConfig
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError

if TYPE_CHECKING:
    from vggrpo.planning.machine import Machine
    from vggrpo.planning.plan import Plan

_GIB = 2**30
_ITERATION = ("rollout", "guard", "reward", "rank", "update")


def run(command: PlanCommand) -> Outcome:
    """Plan, and say whether it fits."""
    config = command.settings
    if command.memory_gib is not None and command.memory_gib <= 0:
        raise UserError(f"--memory-gib is {command.memory_gib:g}; give a positive number.")
    if command.tflops is not None and command.tflops <= 0:
        raise UserError(f"--tflops is {command.tflops:g}; give a positive number.")
    if command.processes < 1 or config.groups % command.processes:
        raise UserError(f"{config.groups} groups cannot be shared evenly by {command.processes} processes.")
    get_preset(config.preset)
    with PhaseProgress() as progress:
        progress.phase("plan")
        from vggrpo.planning.fitting import remedy_of
        from vggrpo.planning.plan import Planner

        planner = Planner(_machine(command), processes=command.processes)
        plan = planner.plan(config)
        remedy = "" if plan.fits else remedy_of(planner, plan)
    for text in (*plan.notes, *config.doubts):
        note(f"note: {text}")
    return Outcome(result=_result(plan, remedy), shown=_table(plan, remedy))


def require_plan(config: GrpoConfig) -> None:
    """Raise a UserError for a training that this machine has not the memory for.

    Only released models are planned: the embedded ones run wherever this program does, and load in less time than a
    plan takes.
    """
    if not get_preset(config.preset).is_released_model:
        return
    import os

    from vggrpo.planning.fitting import require_fits
    from vggrpo.planning.machine import this_machine
    from vggrpo.planning.plan import Planner

    processes = os.environ.get("WORLD_SIZE", "1")
    require_fits(Planner(this_machine(), processes=int(processes) if processes.isdigit() else 1), config)


def _machine(command: PlanCommand) -> "Machine":
    from dataclasses import replace

    from vggrpo.planning.machine import described_machine, measure_matrix_rate, this_machine
    from vggrpo.runtime.device import choose_device, choose_dtype, set_threads

    if command.memory_gib is not None:
        return described_machine(memory_gib=command.memory_gib, tflops=command.tflops)
    set_threads("background")
    device = choose_device()
    if command.tflops is not None:
        return replace(this_machine(), flops=command.tflops * 1e12)
    return replace(this_machine(), flops=measure_matrix_rate(device, choose_dtype(device)))


def _result(plan: "Plan", remedy: str) -> dict[str, object]:
    config, preset = plan.config, plan.preset
    rate = plan.machine.flops
    return {
        "preset": preset.name,
        "objective": config.objective,
        "height": preset.height,
        "width": preset.width,
        "frames": preset.num_frames,
        "group_size": config.group_size,
        "groups": config.groups,
        "micro_batch": config.micro_batch,
        "reward_space": config.reward_space,
        "reward_batch": config.reward_batch,
        "gradient_checkpointing": config.gradient_checkpointing,
        "processes": plan.processes,
        "device": plan.machine.name,
        "device_gib": round(plan.machine.memory_bytes / _GIB, 2),
        "tflops": None if rate is None else round(rate / 1e12, 2),
        "weights_gib": {name: round(size / _GIB, 3) for name, size in plan.weights.items()},
        "phases": {
            phase.name: {
                "resident_gib": round(phase.resident_bytes / _GIB, 3),
                "peak_gib": round(phase.peak_bytes / _GIB, 3),
                "tflop": round(phase.flops / 1e12, 3),
                "least_seconds": None if rate is None else round(phase.flops / rate, 2),
            }
            for phase in plan.phases
        },
        "needed_gib": round(plan.needed_bytes / _GIB, 2),
        "fits": plan.fits,
        "remedy": remedy,
    }


def _table(plan: "Plan", remedy: str) -> Table:
    """Phases, with their peaks and least times; the verdict below."""
    preset, config = plan.preset, plan.config
    size = f"{preset.width}×{preset.height}, {preset.num_frames} frames"
    title = f"{preset.name}, {size}, {config.groups} groups of {config.group_size}; {plan.machine.name}"
    table = Table(title=title, title_justify="left", caption=_verdict(plan, remedy), caption_justify="left")
    table.add_column("phase")
    for heading in ("there before, GiB", "peak, GiB", "TFLOP", "least time, s"):
        table.add_column(heading, justify="right")
    for phase in plan.phases:
        seconds = plan.seconds(phase)
        table.add_row(
            phase.name,
            f"{phase.resident_bytes / _GIB:.2f}",
            f"{phase.peak_bytes / _GIB:.2f}",
            f"{phase.flops / 1e12:.1f}",
            "–" if seconds is None else f"{seconds:.1f}",
        )
    table.add_section()
    in_iteration = [phase for phase in plan.phases if phase.name in _ITERATION]
    flops = sum(phase.flops for phase in in_iteration)
    seconds = None if plan.machine.flops is None else flops / plan.machine.flops
    shown = "–" if seconds is None else f"{seconds:.1f}"
    table.add_row(
        "an iteration", "", f"{max(p.peak_bytes for p in in_iteration) / _GIB:.2f}", f"{flops / 1e12:.1f}", shown
    )
    return table


def _verdict(plan: "Plan", remedy: str) -> str:
    needed, has = plan.needed_bytes / _GIB, plan.machine.memory_bytes / _GIB
    weights = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in plan.weights.items())
    sized = f"Weights, GiB: {weights}. With what the device takes itself {needed:.1f} of {has:.1f} GiB are needed"
    if plan.fits:
        return f"{sized}: it fits."
    return f"{sized}: it does not fit. {remedy}"
