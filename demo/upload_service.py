"""What visitors send is read in a process of its own before anything else sees it (``demo.upload_reader_service``)."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from demo.environment import MEBIBYTE, Limits
from demo.job_queue import PageError

UploadKind = Literal["video", "geometry", "latents", "image", "adapter"]

_ROOT = Path(__file__).resolve().parent.parent
_READER = "demo.upload_reader_service"
_KEPT_VARIABLES = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")
_LOOK_SECONDS = 0.05
_WORDS: dict[UploadKind, str] = {
    "video": "a video",
    "geometry": "a geometry.npz",
    "latents": "latents",
    "image": "an image",
    "adapter": "an adapter",
}


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A file that was read: ``path`` may be handed on. ``facts`` say what the reader found out."""

    path: Path
    facts: dict[str, Any]


@contextmanager
def admitted(
    file: Path, *, kind: UploadKind, limits: Limits, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[Admitted]:
    """Within it, a plain copy of an uploaded file, under the file's own name where it has one form.

    Of a video: ``path`` is a .npy file of its frames. Raises ``PageError`` with one line that names the file, here and
    for what the caller finds wrong with it.
    """
    from vggrpo.runtime.errors import UserError

    with tempfile.TemporaryDirectory(prefix="vggrpo-upload-") as name:
        target = Path(name)
        facts = _read(file, target, kind=kind, limits=limits, should_stop=should_stop)
        made = next(target.iterdir(), None)
        path = made or file
        try:
            yield Admitted(path=path, facts=facts)
        except UserError as error:
            # Where the server keeps a file is no visitor's business.
            raise PageError(str(error).replace(str(path), file.name)) from error


def _read(
    file: Path, target: Path, *, kind: UploadKind, limits: Limits, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Let the reader read. Raises ``PageError``."""
    most = {"video": limits.video_bytes, "geometry": limits.geometry_bytes, "image": limits.image_pixels}.get(kind, 0)
    request = {
        "kind": kind,
        "source": str(file),
        "target": str(target),
        "most": most,
        "names": _array_names() if kind == "geometry" else {},
        "memory": limits.reading_memory,
        "seconds": limits.reading_seconds,
        "written": max(limits.video_bytes, limits.geometry_bytes, 3 * limits.image_pixels) + MEBIBYTE,
    }
    output = _run_reader(json.dumps(request), name=file.name, limits=limits, should_stop=should_stop)
    try:
        answer = json.loads(output)
    except ValueError:
        answer = {"error": f"{file.name} cannot be read as {_WORDS[kind]}: reading it failed or needs too much memory."}
    if error := answer.get("error"):
        raise PageError(str(error).replace(str(file), file.name))
    return answer


def _run_reader(request: str, *, name: str, limits: Limits, should_stop: Callable[[], bool]) -> str:
    """What the reader printed, nothing where it died. Raises ``PageError`` where it takes too long."""
    python_path = os.pathsep.join(path for path in sys.path if path and Path(path) != _ROOT)
    variables = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
    child = subprocess.Popen(
        [sys.executable, "-m", _READER, request],
        cwd=_ROOT,
        # None of the server's secrets, and one thread: a pool of threads alone takes gigabytes of address space.
        env=variables | {"PYTHONPATH": python_path, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    ends = time.monotonic() + limits.reading_seconds
    try:
        while child.poll() is None:
            if should_stop():
                raise PageError("Cancelled. Nothing was kept.")
            if time.monotonic() > ends:
                raise PageError(f"{name} takes longer than {limits.reading_seconds:.0f} s to read: give a shorter one.")
            time.sleep(_LOOK_SECONDS)
        assert child.stdout is not None
        return child.stdout.read() if child.returncode == 0 else ""
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def _array_names() -> dict[str, str]:
    """The arrays of a geometry.npz with their shapes in words."""
    from vggrpo.runtime.geometry_file import array_shapes

    return array_shapes()
