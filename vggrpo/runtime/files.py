"""Atomic writes: a file or folder is there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vggrpo.runtime.errors import UserError

RUN_MARKER = "manifest.json"
"""The file that tells a run folder from a folder that holds something else of the user's."""
PAIR_MARKER = "pair.json"
"""The same for a folder of two runs."""


def require_writable(folder: Path) -> None:
    """Raise a UserError unless ``folder`` can be made or written; nothing is left behind."""
    parent = folder
    while not parent.exists():
        parent = parent.parent
    if parent == folder and not parent.is_dir():
        raise UserError(f"{folder} is a file; choose another output folder.")
    if not parent.is_dir():
        raise UserError(f"{folder} cannot be made: {parent} is a file; choose another output folder.")
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".vggrpo-"):
            pass
    except OSError as error:
        reason = error.strerror or "no permission"
        raise UserError(f"{parent} is not writable ({reason}); choose another output folder.") from error


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """``atomic_write_bytes`` in UTF-8."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A hidden sibling folder to build in, moved to ``out`` when the block ends and removed when it fails.

    An existing ``out`` is replaced only if it is empty or an earlier run folder; anything else raises a UserError.
    """
    if out.exists():
        if not out.is_dir():
            raise UserError(f"{out} is a file; choose another output folder.")
        if any(out.iterdir()) and not any((out / name).is_file() for name in (RUN_MARKER, PAIR_MARKER)):
            raise UserError(f"{out} holds other files; choose an empty or new output folder.")
    require_writable(out.parent)
    made = [parent for parent in (out.parent, *out.parent.parents) if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    building.chmod(0o755)
    try:
        yield building
        _move_into_place(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        for parent in made:
            # Another run may have put something there meanwhile.
            with suppress(OSError):
                parent.rmdir()
        raise


def _move_into_place(building: Path, out: Path) -> None:
    """Two renames: the old folder goes only when the new one is there, and comes back if that fails."""
    if not out.exists():
        building.replace(out)
        return
    old = building.with_name(f"{building.name}.old")
    out.replace(old)
    try:
        building.replace(out)
    except OSError:
        old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
