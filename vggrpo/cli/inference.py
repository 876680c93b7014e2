"""``generate``, ``score``, ``bench`` and ``examples``: the commands that use finished models."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from vggrpo.cli.commands import Bench, Examples, Generate, Score
from vggrpo.cli.examples import chosen_examples, folder_of, thin
from vggrpo.cli.terminal import Outcome, PhaseProgress, note, rewards_table
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable
from vggrpo.runtime.run_folder import RunFolder

BENCH_PROMPT = "a red sphere and a blue cube on a grey checkered floor, the camera orbits left"


def run(command: Generate | Score | Bench | Examples) -> Outcome:
    """Run one of this module's commands."""
    if isinstance(command, Generate):
        return _generate(command)
    if isinstance(command, Score):
        return _score(command)
    return _bench(command) if isinstance(command, Bench) else _examples(command)


def _generate(command: Generate) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    get_preset(command.preset)
    require_writable(command.out.parent)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation import GenerateRequest, Studio

        request = GenerateRequest(
            prompt=command.prompt,
            preset=command.preset,
            seed=command.seed,
            steps=command.steps,
            guidance=command.guidance,
            first_frame=command.first_frame,
            adapter=command.adapter,
        )
        studio = Studio.load(command.preset)
        unknown = studio.unknown_words(command.prompt)
        finished = studio.generate(request, command.out, on_progress=progress.show)
    if unknown:
        note(f"note: the model has never seen: {', '.join(unknown)}")
    return _outcome(finished, unknown_words=unknown)


def _score(command: Score) -> Outcome:
    """Exactly one of the three sources."""
    sources = {"--geometry": command.geometry, "--latents": command.latents, "--video": command.video}
    given = {option: path for option, path in sources.items() if path is not None}
    if len(given) != 1:
        raise UserError(f"score takes exactly one of {', '.join(sources)}; {len(given)} were given.")
    file = next(iter(given.values()))
    if not file.is_file():
        raise UserError(f"{file} does not exist.")
    preset = get_preset(command.preset)
    require_writable(command.out.parent)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo import scoring

        if command.geometry is not None:
            progress.phase("rewards")
            return _outcome(scoring.score_geometry(file, command.out))
        from vggrpo.generation import Studio

        studio = Studio.load(preset.name)
        progress.phase("geometry and rewards")
        score = scoring.score_latents if command.latents is not None else scoring.score_video
        return _outcome(score(file, command.out, studio))


def _outcome(finished: RunFolder, **extra: object) -> Outcome:
    """A run folder as a result."""
    rewards, manifest = finished.rewards(), finished.manifest()
    notes = manifest.get("notes", [])
    for line in notes if isinstance(notes, list) else []:
        note(f"note: {line}")
    result = {"out": str(finished.path), "rewards": rewards, "timings": manifest["timings"], "notes": notes, **extra}
    return Outcome(result=result, shown=rewards_table(rewards, title=str(finished.path)))


def _bench(command: Bench) -> Outcome:
    """Cold is this process's first run, imports included; warm the fastest of some more."""
    if command.repeats < 1:
        raise UserError(f"{command.repeats} warm runs were asked for; give at least 1.")
    get_preset(command.preset)
    with PhaseProgress() as progress, tempfile.TemporaryDirectory(prefix="vggrpo-bench-") as folder:
        progress.phase("import")
        began = time.perf_counter()
        from vggrpo.generation import GenerateRequest, Studio

        import_seconds = time.perf_counter() - began
        progress.phase("load")
        studio = Studio.load(command.preset)
        request = GenerateRequest(prompt=BENCH_PROMPT, preset=command.preset, steps=command.steps)
        runs = []
        for index in range(command.repeats + 1):
            progress.phase("first run" if index == 0 else f"warm run {index}")
            finished = studio.generate(request, Path(folder) / str(index))
            runs.append(_timings(finished.manifest()))
    cold = {"import": round(import_seconds, 3), **runs[0]}
    warm = min((_without(run, "load") for run in runs[1:]), key=lambda run: sum(run.values()))
    result = {
        "preset": command.preset,
        "steps": command.steps or studio.preset.steps,
        "threads": _threads(),
        "cold": cold | {"total": round(sum(cold.values()), 3)},
        "warm": warm | {"total": round(sum(warm.values()), 3)},
    }
    return Outcome(result=result, shown=_bench_table(result))


def _timings(manifest: Mapping[str, object]) -> dict[str, float]:
    timings = manifest["timings"]
    assert isinstance(timings, dict), "the studio writes an object"
    return {str(phase): float(seconds) for phase, seconds in timings.items()}


def _without(timings: Mapping[str, float], phase: str) -> dict[str, float]:
    return {name: seconds for name, seconds in timings.items() if name != phase}


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _bench_table(result: Mapping[str, object]) -> Table:
    cold, warm = result["cold"], result["warm"]
    assert isinstance(cold, dict), "built above"
    assert isinstance(warm, dict), "built above"
    table = Table(
        title=f"generate, {result['preset']}, {result['steps']} steps, {result['threads']} threads: seconds",
        title_justify="left",
    )
    table.add_column("phase")
    table.add_column("cold", justify="right")
    table.add_column("warm", justify="right")
    for phase, seconds in cold.items():
        table.add_row(phase, f"{seconds:.2f}", f"{warm[phase]:.2f}" if phase in warm else "–")
    return table


def _examples(command: Examples) -> Outcome:
    """Every example from one loaded studio."""
    examples = chosen_examples(command.only)
    get_preset(command.preset)
    require_writable(command.out)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation import GenerateRequest, Studio

        studio = Studio.load(command.preset)
        made = {}
        for example in examples:
            progress.phase(example.name)
            request = GenerateRequest(prompt=example.prompt, preset=command.preset, seed=example.seed)
            finished = studio.generate(request, folder_of(example, command.out))
            thin(finished)
            made[example.name] = str(finished.path)
    return Outcome(result={"examples": made}, shown="\n".join(made.values()))
