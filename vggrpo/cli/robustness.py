"""``evaluate robustness``: the paper's robustness figure as numbers."""

import math
import time
from typing import TYPE_CHECKING

from rich.table import Table

from vggrpo.cli.command_line import shown_command
from vggrpo.cli.evaluate_commands import EvaluateRobustness
from vggrpo.cli.evaluating import models_to_measure
from vggrpo.cli.model_choice import check_choice, open_studio
from vggrpo.cli.terminal import Outcome, PhaseProgress
from vggrpo.presets import Preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable

if TYPE_CHECKING:
    from vggrpo.evaluation.estimates import Estimate
    from vggrpo.evaluation.results import Result
    from vggrpo.evaluation.robustness import Robustness
    from vggrpo.generation import Studio

NAME = "robustness"
MOST_CLIPS = 4096
MOST_LEVELS = 32


def run(command: EvaluateRobustness) -> Outcome:
    """Read held-out world clips through both ways to the camera at every noise level."""
    preset = _check(command)
    levels = noise_levels(command.levels)
    with PhaseProgress() as progress:
        progress.phase("load")
        from vggrpo.evaluation.robustness import measure_robustness
        from vggrpo.types import WorldClip
        from vggrpo.worlds import make_clip

        studio = open_studio(command, progress)
        began = time.monotonic()

        def film(seed: int) -> WorldClip:
            return make_clip(seed, num_frames=preset.num_frames, height=preset.height, width=preset.width)

        measured = measure_robustness(
            models_to_measure(studio),
            levels=levels,
            seeds=range(command.seed, command.seed + command.clips),
            film=film,
            on_clip=progress.counter("clips", total=command.clips),
        )
    result = _result(command, studio, measured, seconds=time.monotonic() - began)
    _write(command, result)
    title = f"{command.preset}: pose errors in degrees on {command.clips} held-out clips, by noise on the latents"
    return Outcome(result=result.content, shown=robustness_table(measured, title=title))


def noise_levels(asked: tuple[float, ...]) -> tuple[float, ...]:
    """The levels in rising order, each once, 0 (the clean reading) always among them.

    Raises a UserError for what is no standard deviation, or for none above 0.
    """
    for level in asked:
        if not math.isfinite(level) or level < 0.0:
            raise UserError(f"A noise level of {level:g} was asked for; give standard deviations, 0 or more.")
    levels = tuple(sorted({0.0, *asked}))
    if not 2 <= len(levels) <= MOST_LEVELS:
        raise UserError(f"--levels needs at least one noise level above 0, and at most {MOST_LEVELS - 1}.")
    return levels


def robustness_table(measured: "Robustness", *, title: str) -> Table:
    """Both readers side by side, with their paired difference, for every error."""
    from vggrpo.evaluation.robustness import AGAINST, MEASURES, ErrorKey

    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("noise σ")
    for heading in ("Φ_g on latents", "Φ on decoded", "Φ − Φ_g", "95 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    for measure, measure_name in MEASURES.items():
        for against, against_name in AGAINST.items():
            table.add_section()
            table.add_row(f"{measure_name} against {against_name}", style="bold")
            for index, level in enumerate(measured.levels):
                latent, decoded = (
                    measured.estimate(ErrorKey(reader=reader, against=against, measure=measure), level=index)
                    for reader in ("latent", "decoded")
                )
                gain = measured.advantage(against=against, measure=measure, level=index)
                table.add_row(f"  {level:g}", _shown(latent), _shown(decoded), _shown(gain), _interval(gain))
    return table


def _shown(estimate: "Estimate") -> str:
    return _degrees(estimate.value) if estimate.is_measured else "–"


def _interval(estimate: "Estimate") -> str:
    return "–" if estimate.interval == "none" else f"{_degrees(estimate.low)} to {_degrees(estimate.high)}"


def _degrees(value: float) -> str:
    """Two decimals; adding 0 takes the sign off a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _check(command: EvaluateRobustness) -> Preset:
    """The preset; raises a UserError for the first thing that is wrong."""
    from vggrpo.worlds import FIRST_TRAINING_SEED

    preset = check_choice(command)
    if not 1 <= command.clips <= MOST_CLIPS:
        raise UserError(f"{command.clips} clips were asked for; give 1 to {MOST_CLIPS}.")
    last = FIRST_TRAINING_SEED - command.clips
    if not 0 <= command.seed <= last:
        raise UserError(f"The seed is {command.seed}; give 0 to {last}, the held-out worlds.")
    if command.out is not None:
        require_writable(command.out)
    return preset


def _result(command: EvaluateRobustness, studio: "Studio", measured: "Robustness", *, seconds: float) -> "Result":
    """The numbers with what made them."""
    from vggrpo.cli.recording import loaded_weights
    from vggrpo.evaluation.results import Result, take_provenance

    provenance = take_provenance(
        shown_command(command, words="evaluate robustness"),
        preset=command.preset,
        device=studio.models.device,
        seconds=seconds,
        seeds={"first_world": command.seed},
        weights=loaded_weights(studio.models, ("vae", "geometry", "latent_geometry")),
    )
    return Result(kind=NAME, provenance=provenance, content=measured.to_json())


def _write(command: EvaluateRobustness, result: "Result") -> None:
    """Into ``--out``, and among the results that ship."""
    from vggrpo.evaluation.results import result_path, write_result

    if command.out is not None:
        write_result(command.out / f"{NAME}.json", result)
    if command.record:
        write_result(result_path(NAME), result)
