"""``compare``: what an adapter changes over many prompts, with an interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from vggrpo.cli.commands import Compare
from vggrpo.cli.examples import adapter_name
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable

MOST_BATCH = 256


def run(command: Compare) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    from vggrpo.grpo.prompts import read_prompts

    _check(command)
    prompts = () if command.prompts is None else read_prompts(command.prompts)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation import GenerateRequest, Progress
        from vggrpo.generation import comparison as many
        from vggrpo.runtime import run_folder

        jobs = (
            many.numbered(prompts, seed=command.seed)
            if command.count is None
            else many.held_out_prompts(command.count, seed=command.seed)
        )

        def template(adapter: Path | None) -> GenerateRequest:
            return GenerateRequest(
                prompt=jobs[0].prompt,
                preset=command.preset,
                seed=command.seed,
                steps=command.steps,
                guidance=command.guidance,
                adapter=adapter,
                reward_space=command.reward_space,
            )

        def show(report: many.ComparisonProgress) -> None:
            progress.show(
                Progress(phase="denoise", done=report.done, total=report.total, seconds_left=report.seconds_left)
            )

        sides = {"base": template(command.other_adapter), "tuned": template(command.adapter)}
        compared = many.compare_prompts(
            open_studio(command, progress),
            jobs,
            base=sides["base"],
            tuned=sides["tuned"],
            on_progress=show,
            should_stop=lambda: False,
            batch=command.batch,
        )
        about = {side: {"label": _label(request.adapter)} for side, request in sides.items()}
        content = compared.to_json() | {"sides": about, "preset": command.preset, "asked": len(jobs)}
        command.out.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(command.out / many.COMPARISON, content)
    written: Mapping[str, Any] = run_folder.read_json(command.out / many.COMPARISON)
    guards = written["guards"]["paired"]
    result = {"out": str(command.out), "n": len(jobs), "paired": written["paired"], "guards": guards}
    return Outcome(result=result, shown=_table(written, title=str(command.out / many.COMPARISON)))


def _check(command: Compare) -> None:
    """Raise a UserError for the first thing that is wrong."""
    check_choice(command)
    if command.adapter is None:
        raise UserError("compare needs --adapter: a .safetensors file or a folder that train wrote.")
    if (command.prompts is None) == (command.count is None):
        raise UserError("compare takes exactly one of --prompts FILE and --count N.")
    if not 1 <= command.batch <= MOST_BATCH:
        raise UserError(f"A batch of {command.batch} was asked for; give 1 to {MOST_BATCH}.")
    for path in (command.adapter, command.other_adapter):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    require_writable(command.out)


def _label(adapter: Path | None) -> str:
    """What people call a side."""
    return "Base model" if adapter is None else adapter_name(adapter)


def _table(content: Mapping[str, Any], *, title: str) -> Table:
    """Means of both sides and the difference with its interval; guards below the rewards."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "base", "tuned", "difference", "95 % interval", "pairs"):
        table.add_column(heading, justify="right" if heading else "left")
    for part, kind in ((content, ""), (content["guards"], " (guard)")):
        for name, found in part["paired"].items():
            means = _means(part["base"][name], part["tuned"][name])
            ends = "–" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
            difference = "–" if found["mean"] is None else f"{found['mean']:+.4f}"
            pairs = str(found["n"]) + (f" ({found['left_out']} left out)" if found["left_out"] else "")
            table.add_row(name.replace("_", " ") + kind, *means, difference, ends, pairs)
    return table


def _means(base: Sequence[float | None], tuned: Sequence[float | None]) -> tuple[str, str]:
    """Both means over the pairs that were judged on both sides."""
    judged = [(a, b) for a, b in zip(base, tuned, strict=True) if a is not None and b is not None]
    if not judged:
        return "–", "–"
    return f"{fmean(a for a, _ in judged):.4f}", f"{fmean(b for _, b in judged):.4f}"
