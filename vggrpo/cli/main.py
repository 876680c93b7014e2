"""Parse, run one command, and turn every mistake of the user into one line and exit code 2."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import tyro

from vggrpo.cli import commands
from vggrpo.cli.evaluate_commands import (
    Evaluate,
    EvaluateAdapters,
    EvaluateAgreement,
    EvaluateAssets,
    EvaluateGradients,
    EvaluateJitter,
    EvaluateRobustness,
    with_subject,
)
from vggrpo.cli.terminal import Outcome, note, show
from vggrpo.cli.train_settings import starting_settings
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.errors import Cancelled, UserError

PROGRAM = "python -m vggrpo"
OK, FAILED, MISUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Exit codes: 0 done, 2 a user's mistake, 130 interrupted, 143 told to stop by SIGTERM, 1 the machine's fault.
    """
    # Progress and results are ours to show; the libraries' banners would bury the one line that matters.
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("DIFFUSERS_VERBOSITY", "error"), ("TQDM_DISABLE", "1")):
        os.environ.setdefault(name, value)
    try:
        command = _parse(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else MISUSED
    except UserError as error:
        note(f"error: {error}")
        return MISUSED
    with _TerminatedCleanly():
        try:
            show(_run(command), as_json=command.json)
        except UserError as error:
            note(f"error: {error}")
            return MISUSED
        except (KeyboardInterrupt, Cancelled):
            note("interrupted: nothing half-written was left.")
            return INTERRUPTED
        except _TerminatedError:
            note(_last_words(command))
            return TERMINATED
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            note(f"error: {place}{error.strerror or error}; free space or choose another folder.")
            return FAILED
    return OK


class _TerminatedCleanly:
    """Within it SIGTERM unwinds like Ctrl-C, so that half-built folders are removed."""

    def __enter__(self) -> None:
        """Signals belong to the main thread; elsewhere nothing changes."""
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, _stop)

    def __exit__(self, *_: object) -> None:
        """The handler that was there before."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)


class _TerminatedError(SystemExit):
    """SIGTERM outside a training loop, which hears it between two steps."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TerminatedError(TERMINATED)


def _last_words(command: commands.Command) -> str:
    """What is left of a command that was told to stop while it loaded or prepared."""
    if isinstance(command, EvaluateAdapters):
        return "stopped: what is drawn and judged is kept; run the same command again."
    if not isinstance(command, commands.PretrainCommand | commands.Train):
        return "stopped: nothing half-written was left."
    out: Path = getattr(command, "out", Path())
    if checkpoint_folders(out):
        return f"stopped before training went on: the checkpoints in {out} are whole; go on with --resume."
    return "stopped before the first step: what was prepared is kept; run the same command again."


def _parse(argv: list[str]) -> commands.Command:
    """The command and its options. tyro prints help and mistakes, and exits with 0 or 2.

    It reads unions as subcommands, which no type checker takes for a type.
    """
    argv = with_subject(argv)
    parsed: commands.Command | commands.Pretrain | Evaluate = tyro.cli(
        commands.with_train(starting_settings(argv)),
        args=argv,
        prog=PROGRAM,
        description="VGGRPO Studio: world-consistent text-to-video, judged by its 4D geometry.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
    )
    if isinstance(parsed, Evaluate):
        return parsed.subject
    return parsed.stage if isinstance(parsed, commands.Pretrain) else parsed


def _add_rewards(files: Sequence[Path]) -> None:
    """Rewards of the user's own."""
    if files:
        from vggrpo.rewards import load_reward_file

        for file in files:
            load_reward_file(file)


def _run(command: commands.Command) -> Outcome:
    """Import what the command needs, and run it."""
    if isinstance(command, commands.JudgingCommand):
        _add_rewards(command.reward_file)
    if isinstance(command, commands.Presets):
        from vggrpo.cli.listing import list_presets

        return list_presets()
    if isinstance(command, commands.Generate | commands.Score | commands.Bench | commands.Examples):
        from vggrpo.cli import inference

        return inference.run(command)
    if isinstance(command, commands.Compare):
        from vggrpo.cli import comparing

        return comparing.run(command)
    if isinstance(command, EvaluateAssets | EvaluateJitter):
        from vggrpo.cli import evaluating

        return evaluating.run(command)
    if isinstance(command, EvaluateAdapters):
        from vggrpo.cli import contesting

        return contesting.run(command)
    if isinstance(command, EvaluateAgreement):
        from vggrpo.cli import agreement

        return agreement.run(command)
    if isinstance(command, EvaluateGradients):
        from vggrpo.cli import gradients

        return gradients.run(command)
    if isinstance(command, EvaluateRobustness):
        from vggrpo.cli import robustness

        return robustness.run(command)
    if isinstance(command, commands.Plan):
        from vggrpo.cli import planning

        return planning.run(command)
    if isinstance(command, commands.Train):
        from vggrpo.cli import tuning

        return tuning.run(command)
    from vggrpo.cli import training

    return training.run(command)
