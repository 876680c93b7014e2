"""Numbered checkpoint folders that are there whole or not at all: ``<run>/checkpoints/step-NNNNNN``."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vggrpo.runtime.errors import UserError

KEPT_CHECKPOINTS = 2
"""Older ones are removed."""


def checkpoint_folders(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first. Half-written ones have other names and are not among them."""
    return sorted((run / "checkpoints").glob("step-" + "[0-9]" * 6))


def checkpoint_folder(run: Path, *, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


@contextmanager
def building_checkpoint(run: Path, *, step: int) -> Iterator[Path]:
    """A hidden folder to write a checkpoint in; it takes its name when the block ends and all bytes are on disk.

    Then all but the newest ``KEPT_CHECKPOINTS`` go. If the block fails, nothing of it is left and the older
    checkpoints are as they were.

    Raises:
        UserError: the disk is full, or may not be written.
    """
    folder = checkpoint_folder(run, step=step)
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    # Left by a process that was killed while it wrote.
    for leftover in folder.parent.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        yield building
        for path in building.iterdir():
            _flush(path)
        building.replace(folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(building, ignore_errors=True)
        kept = checkpoint_folders(run)
        rest = f"{kept[-1].name} is untouched" if kept else "there is no earlier one"
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"The checkpoint of step {step} cannot be written to {run} ({reason}); {rest}: "
            "free space and run again with --resume."
        ) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    for old in checkpoint_folders(run)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """What the system still holds back goes to the disk: a name must not survive a power cut that its bytes do not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
