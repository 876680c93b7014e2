"""``generate``, ``score``, ``bench`` and ``examples``: the commands that use finished models."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from vggrpo.cli.commands import Bench, Examples, Generate, Score
from vggrpo.cli.examples import PAIRS, PAIRS_FOLDER, adapter_name, chosen_examples, folder_of, thin, thin_pair_side
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.phase_bench import bench_phases
from vggrpo.cli.reward_bench import BENCH_PROMPT, bench_reward
from vggrpo.cli.terminal import Outcome, PhaseProgress, note, rewards_table
from vggrpo.cli.train_bench import bench_train
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable
from vggrpo.runtime.run_folder import RunFolder

if TYPE_CHECKING:
    from vggrpo.generation import RewardGuidance


def run(command: Generate | Score | Bench | Examples) -> Outcome:
    """Run one of this module's commands."""
    if isinstance(command, Generate):
        return _generate(command)
    if isinstance(command, Score):
        return _score(command)
    if isinstance(command, Examples):
        return _examples(command)
    if command.record and command.what != "reward":
        raise UserError(f"bench {command.what} records nothing: leave out --record, or run bench reward.")
    if command.what == "phases":
        return bench_phases(command)
    if command.what == "train":
        return bench_train(command)
    if command.what == "reward":
        return bench_reward(command)
    return _bench(command)


def _generate(command: Generate) -> Outcome:
    """Everything that can be wrong with the request is said before a model is loaded."""
    if command.reward_guidance is None and command.reward_guidance_every is not None:
        raise UserError("--reward-guidance-every needs --reward-guidance SCALE, for example 30.")
    check_choice(command)
    require_writable(command.out.parent)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation import GenerateRequest

        request = GenerateRequest(
            prompt=command.prompt,
            preset=command.preset,
            seed=command.seed,
            steps=command.steps,
            guidance=command.guidance,
            first_frame=command.first_frame,
            adapter=command.adapter,
            reward_guidance=_reward_guidance(command),
            reward_space=command.reward_space,
        )
        studio = open_studio(command, progress)
        unknown = studio.unknown_words(command.prompt)
        finished = studio.generate(request, command.out, on_progress=progress.show)
    if unknown:
        note(f"note: the model has never seen: {', '.join(unknown)}")
    guidance = finished.manifest().get("reward_guidance")
    if isinstance(guidance, Mapping):
        note(f"note: {describe_guidance(guidance)}")
    return _outcome(finished, unknown_words=unknown, reward_guidance=guidance)


def _reward_guidance(command: Generate) -> "RewardGuidance | None":
    """The settings of both flags; None where rewards do not guide."""
    from vggrpo.generation import RewardGuidance

    if command.reward_guidance is None:
        return None
    if command.reward_guidance_every is None:
        return RewardGuidance(scale=command.reward_guidance)
    return RewardGuidance(scale=command.reward_guidance, every=command.reward_guidance_every)


def describe_guidance(entry: Mapping[str, object]) -> str:
    """The manifest's entry in one line: the reward at this seed without guidance, and with it."""
    before, after = (entry[side] for side in ("before", "after"))
    assert isinstance(before, Mapping), "the studio writes an object"
    assert isinstance(after, Mapping), "the studio writes an object"
    numbers = [f"{value:.4f}" if isinstance(value, float) else "–" for value in (before["reward"], after["reward"])]
    steps = f"{entry['guided_steps']} steps guided, {entry['skipped_steps']} without a usable gradient"
    return f"guiding reward {numbers[0]} without, {numbers[1]} with guidance ({steps})"


def _score(command: Score) -> Outcome:
    """Exactly one of the three sources."""
    sources = {"--geometry": command.geometry, "--latents": command.latents, "--video": command.video}
    given = {option: path for option, path in sources.items() if path is not None}
    if len(given) != 1:
        raise UserError(f"score takes exactly one of {', '.join(sources)}; {len(given)} were given.")
    file = next(iter(given.values()))
    if not file.is_file():
        raise UserError(f"{file} does not exist.")
    check_choice(command)
    require_writable(command.out.parent)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo import scoring

        if command.geometry is not None:
            progress.phase("rewards")
            return _outcome(scoring.score_geometry(file, command.out))
        studio = open_studio(command, progress)
        progress.phase("geometry and rewards")
        if command.latents is not None:
            return _outcome(scoring.score_latents(file, command.out, studio, reward_space=command.reward_space))
        return _outcome(scoring.score_video(file, command.out, studio))


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
    if command.pairs:
        return _pairs(command)
    if command.adapter is not None:
        raise UserError("--adapter belongs to --pairs: single examples are of the base model.")
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


def _pairs(command: Examples) -> Outcome:
    """Every pair, base against one adapter, from one loaded studio."""
    chosen = chosen_examples(command.only, among=PAIRS)
    if command.adapter is None:
        raise UserError("--pairs needs --adapter: a .safetensors file or a folder that train wrote.")
    get_preset(command.preset)
    require_writable(command.out)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.generation import GenerateRequest, Studio
        from vggrpo.generation.pair import SIDES, PairRequest, generate_pair

        studio = Studio.load(command.preset)
        made = {}
        for example in chosen:
            progress.phase(example.name)
            base = GenerateRequest(prompt=example.prompt, preset=command.preset, seed=example.seed)
            pair = generate_pair(
                studio,
                PairRequest(
                    base=base,
                    tuned=replace(base, adapter=command.adapter),
                    base_label="Base model",
                    tuned_label=adapter_name(command.adapter),
                ),
                command.out / PAIRS_FOLDER / example.name,
                on_progress=lambda *_: None,
                should_stop=lambda: False,
            )
            for side in SIDES:
                thin_pair_side(pair.run(side))
            made[example.name] = str(pair.path)
    return Outcome(result={"pairs": made}, shown="\n".join(made.values()))
