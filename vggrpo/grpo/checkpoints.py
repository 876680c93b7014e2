"""A training's checkpoint: adapter, average, optimiser moments, counters, and Φ_g where it is refreshed too.

No generator state: every random number is derived from (seed, iteration, group, member). No prompt cursor either: the
prompt of a group follows from its number, and the number from the iteration.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggrpo.grpo.held_out import EarlyStop
from vggrpo.runtime.checkpoint_folder import building_checkpoint, checkpoint_folder, checkpoint_folders
from vggrpo.runtime.errors import UserError

_TENSORS = "state.safetensors"
_COUNTERS = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """Where a run is."""

    iteration: int = 0
    """Iterations done."""
    updates: int = 0
    """Optimiser steps taken."""
    groups: int = 0
    """Groups sampled: the prompt of the next group is the run's prompt of this number."""
    skipped: int = 0
    """Iterations in a row without a usable update."""
    seconds: float = 0.0
    """Time spent, over all processes of the run one after another."""
    early_stop: EarlyStop = field(default_factory=EarlyStop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What was read back."""

    folder: Path
    tensors: Mapping[str, Tensor]
    counters: Counters


def save_checkpoint(
    run: Path, *, tensors: Mapping[str, Tensor], counters: Counters, export: Callable[[Path], object]
) -> None:
    """Write ``checkpoints/step-NNNNNN``, whole or not at all; ``export`` adds the adapter in diffusers' format.

    Raises:
        UserError: the disk is full; older checkpoints are as they were.
    """
    if checkpoint_folder(run, step=counters.iteration).exists():
        return
    with building_checkpoint(run, step=counters.iteration) as building:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, building / _TENSORS)
        (building / _COUNTERS).write_text(json.dumps(asdict(counters)), encoding="utf-8")
        export(building)


def latest_checkpoint(run: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None where there is none yet.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    folders = checkpoint_folders(run)
    for folder in reversed(folders):
        checkpoint = _read(folder)
        if checkpoint is not None:
            return checkpoint
    if folders:
        raise UserError(f"No checkpoint in {run} can be read: choose another output folder and start again.")
    return None


def remove_newer(run: Path, *, than: int) -> None:
    """Remove checkpoints that could not be read: they would keep their place when the run comes there again."""
    for folder in checkpoint_folders(run):
        if folder.name > checkpoint_folder(run, step=than).name:
            shutil.rmtree(folder)


def _read(folder: Path) -> Checkpoint | None:
    try:
        tensors = load_file(folder / _TENSORS)
        values = json.loads((folder / _COUNTERS).read_text(encoding="utf-8"))
        early_stop = EarlyStop(**values.pop("early_stop"))
        return Checkpoint(folder=folder, tensors=tensors, counters=Counters(**values, early_stop=early_stop))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None
