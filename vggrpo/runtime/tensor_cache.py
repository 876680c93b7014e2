"""Tensors by name on disk: each entry one safetensors file that is there whole or not at all.

Names say everything that an entry depends on; files are called by their hash. A damaged file counts as absent, so that
it is made again. Deleting the folder loses nothing but time.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vggrpo.runtime.errors import UserError

_STALE_SECONDS = 3600.0


class TensorCache:
    """One folder of entries; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        """The folder is made by the first entry. What a killed process left half-written is removed."""
        self.folder = folder
        for leftover in folder.glob(".*.tmp"):
            # A fresh one may be another process's, at work.
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink(missing_ok=True)

    def get(self, name: str) -> dict[str, Tensor] | None:
        """An entry; None if it is absent or damaged."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                if (file.metadata() or {}).get("name") != name:
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (FileNotFoundError, SafetensorError):
            return None

    def has(self, name: str) -> bool:
        """Whether an entry is there and whole (its header tells how long the file must be)."""
        try:
            with safe_open(self._path(name), framework="pt") as file:
                return (file.metadata() or {}).get("name") == name
        except (FileNotFoundError, SafetensorError):
            return False

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry atomically.

        Raises:
            UserError: the disk is full or may not be written.
        """
        path = self._path(name)
        temporary = self.folder / f".{path.stem}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary, {"name": name})
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{self.folder} cannot take the cache ({reason}): free space or name another --cache."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"
