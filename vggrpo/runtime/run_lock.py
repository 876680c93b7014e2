"""One process a training folder: a lock that the system releases when its process dies, however it dies."""

import os
from pathlib import Path
from types import TracebackType

from vggrpo.runtime.errors import UserError

LOCK_NAME = "lock"


class RunLock:
    """Holds ``<run>/lock`` while it is open. The file carries the process's number for people and for the page.

    The lock is the system's (``flock``), not the file: a file that a killed run left behind locks nothing, even if its
    number meanwhile belongs to another program.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / LOCK_NAME
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        """Take the lock. Raises a UserError while another process holds it."""
        import fcntl

        while self._handle is None:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
                os.close(handle)
                raise UserError(
                    f"{self._path.parent} is in use by process {owner}: wait for it, stop it, or choose another folder."
                ) from error
            if self._is_current(handle):
                self._handle = handle
            else:
                # Its last owner removed the file between our opening and locking it.
                os.close(handle)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the file, then let go."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None

    def _is_current(self, handle: int) -> bool:
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(handle)
        return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)
