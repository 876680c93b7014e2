"""What every training command does with its run folder: settings before, a summary after."""

from dataclasses import replace
from pathlib import Path

from vggrpo.cli.commands import PretrainCommand
from vggrpo.cli.terminal import Outcome, note
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.config_file import write_config
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import require_writable
from vggrpo.runtime.training import LoopConfig, TrainingResult


def loop_of(command: PretrainCommand, loop: LoopConfig) -> LoopConfig:
    """A loop with the options of the command line. Raises a UserError for what cannot be."""
    if command.seed < 0:
        raise UserError(f"The seed is {command.seed}; give a whole number from 0.")
    if command.steps is not None and command.steps < 1:
        raise UserError(f"{command.steps} training steps were asked for; give at least 1.")
    return replace(loop, seed=command.seed, steps=loop.steps if command.steps is None else command.steps)


def begin_run(out: Path, training: object, *, resume: bool) -> None:
    """Write the run folder's ``config.yaml``, unless the folder holds a run that is not to be gone on with."""
    require_writable(out)
    if resume or not checkpoint_folders(out):
        write_config(out, training)


def require_folder(folder: Path, *, made_by: str) -> None:
    """An earlier stage's result. Raises a UserError that names the stage."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run `python -m vggrpo {made_by}` first, or name its result.")


def training_outcome(result: TrainingResult, out: Path) -> Outcome:
    """How far a training came."""
    if not result.finished:
        note(f"stopped after step {result.steps_done}; go on with --resume.")
    summary = {
        "out": str(out),
        "steps_done": result.steps_done,
        "finished": result.finished,
        "seconds": round(result.seconds, 1),
        "last_metrics": {name: round(value, 6) for name, value in result.last_metrics.items()},
    }
    return Outcome(result=summary, shown=f"{out}: {result.steps_done} steps in {result.seconds:.0f} s")
