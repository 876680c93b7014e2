"""Fine-tunes as jobs. A job is a process of its own with a folder of its own, and the page only reads folders.

So a job that crashes, is killed or runs out of memory cannot take the page down; closing or reloading the page changes
nothing; and a page that was restarted finds the running job again. One job runs at a time, the others wait in order.

A job's folder holds ``job.json`` (what was asked), ``prompts.txt``, ``queued`` (while it waits), ``process.json`` (who
runs it), ``stop`` (once somebody asked), ``exit.json`` (how its process ended), ``process.log`` (what it printed), and
``run/``, which belongs to the trainer.
"""

import json
import logging
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from demo.job_queue import PageError
from demo.run_store import Stored, sweep_stored
from demo.training_runs import read_status
from demo.visitors import OWNER

log = logging.getLogger(__name__)

JOB_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8,32}")
"""When it was asked for, and 128 random bits: whoever has a fine-tune's name may look at it."""
MOST_WAITING = 6
"""Jobs that may wait; a seventh is refused."""

_PATROL_SECONDS = 0.5
"""How often the queue looks whether its job has ended."""
_SAME_PROCESS_SECONDS = 2.0
"""Two start times of one process differ by less; a process number that was given to another differs by more."""
_GIVE_WAY = 5
"""Niceness of a job, so that the page stays quick beside it."""

Progress = Literal["queued", "starting", "running", "stopping", "ended"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for; never changes."""

    job_id: str
    folder: Path
    settings: Mapping[str, Any]
    created: float
    """Seconds since 1970."""
    owner: str = OWNER
    """The visitor who asked for it."""

    @property
    def run(self) -> Path:
        """The training run folder."""
        return self.folder / "run"

    @property
    def prompts(self) -> Path:
        """The prompts, one a line."""
        return self.folder / "prompts.txt"

    @property
    def log(self) -> Path:
        """Everything that the latest process printed."""
        return self.folder / "process.log"


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """How a job's process stands, without asking what it trains."""

    progress: Progress
    place: int = 0
    """Place in the queue from 1, for a queued job."""
    started: float | None = None
    """Start of the latest process, seconds since 1970; None for a job that never had one."""
    exit_code: int | None = None
    """Of an ended process: negative for a signal, None where nobody saw it end."""
    stop_asked: bool = False


Command = Callable[[Job], Sequence[str]]
"""The argument list that trains a job, from the start or from its last checkpoint."""


class Jobs:
    """All jobs under ``root``. ``command`` says how one is run, in ``cwd``; ``per_owner`` of a visitor are active."""

    def __init__(self, root: Path, *, command: Command, cwd: Path, per_owner: int = 100) -> None:
        self.root = root
        self._per_owner = per_owner
        self._command = command
        self._cwd = cwd
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self._patrol: threading.Thread | None = None

    def submit(self, settings: Mapping[str, Any], *, prompts: Sequence[str], owner: str = OWNER) -> Job:
        """Write a new job and queue it. Raises ``PageError`` where too many wait."""
        with self._lock:
            self._require_room(owner)
            job_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(16)}"
            folder = self.root / job_id
            folder.mkdir(parents=True)
            job = Job(job_id=job_id, folder=folder, settings=dict(settings), created=time.time(), owner=owner)
            job.prompts.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
            _write(folder / "job.json", {"settings": job.settings, "created": job.created, "owner": owner})
            self._queue(job)
        return job

    def resume(self, job_id: str) -> Job:
        """Queue an ended job once more. Raises ``PageError``."""
        with self._lock:
            job = self.find(job_id)
            if self.state(job).progress != "ended":
                raise PageError("this fine-tune has not ended; there is nothing to resume")
            self._require_room(job.owner)
            self._queue(job)
        return job

    def stop(self, job_id: str) -> None:
        """Take a waiting job out of the queue; ask a running one to stop, and end it at once when asked again."""
        with self._lock:
            job = self.find(job_id)
            state = self.state(job)
            if state.progress == "queued":
                (job.folder / "queued").unlink(missing_ok=True)
                _write(job.folder / "stop", {"asked": time.time()})
                return
            process = self._process(job)
            if process is None:
                return
            _write(job.folder / "stop", {"asked": time.time()})
            with suppress(psutil.Error):
                if state.progress == "stopping":
                    process.kill()
                else:
                    process.terminate()

    def remove(self, job_id: str) -> None:
        """Delete an ended job with everything it made. Raises ``PageError``."""
        with self._lock:
            job = self.find(job_id)
            if self.state(job).progress != "ended":
                raise PageError("this fine-tune is still at work; stop it first")
            shutil.rmtree(job.folder, ignore_errors=True)

    def find(self, job_id: str) -> Job:
        """A job by its name, which is matched before it touches the file system. Raises ``PageError``."""
        folder = self.root / job_id
        content = _read(folder / "job.json") if JOB_ID.fullmatch(job_id) else None
        if content is None or not isinstance(content.get("settings"), dict):
            raise PageError("this fine-tune is not here any more")
        return Job(
            job_id=job_id,
            folder=folder,
            settings=content["settings"],
            created=float(content.get("created") or 0),
            owner=str(content.get("owner") or OWNER),
        )

    def all(self) -> tuple[Job, ...]:
        """Every job, the newest first."""
        if not self.root.is_dir():
            return ()
        found = []
        for path in self.root.iterdir():
            with suppress(PageError):
                found.append(self.find(path.name))
        return tuple(sorted(found, key=lambda job: job.created, reverse=True))

    def state(self, job: Job) -> ProcessState:
        """How the job's process stands now."""
        with self._lock:
            if (job.folder / "queued").exists():
                place = next((i for i, other in enumerate(self._waiting(), 1) if other.job_id == job.job_id), 1)
                return ProcessState(progress="queued", place=place)
            facts = _read(job.folder / "process.json") or {}
            started = facts.get("started")
            stop_asked = (job.folder / "stop").exists()
            if self._process(job) is not None:
                status = read_status(job.run)
                is_heard = status is not None and status.written >= float(started or 0.0)
                progress: Progress = "stopping" if stop_asked else "running" if is_heard else "starting"
                return ProcessState(progress=progress, started=started, stop_asked=stop_asked)
            code = (_read(job.folder / "exit.json") or {}).get("code")
            return ProcessState(progress="ended", started=started, exit_code=code, stop_asked=stop_asked)

    def wake(self) -> None:
        """See to it that somebody watches the running job and starts the next; called once when the page starts."""
        with self._lock:
            if self._patrol is None and (self._waiting() or self._running()):
                self._patrol = threading.Thread(target=self._watch, name="finetune-queue", daemon=True)
                self._patrol.start()

    def sweep(self, *, max_age: float, max_bytes: int) -> None:
        """Delete ended jobs that are too old, and the longest unused beyond the cap; never one that waits or works."""
        with self._lock:
            ended = [job.folder for job in self.all() if self.state(job).progress == "ended"]
            sweep_stored([Stored(folders=(folder,)) for folder in ended], max_age=max_age, max_bytes=max_bytes)

    def _require_room(self, owner: str) -> None:
        active = sum(job.owner == owner and self.state(job).progress != "ended" for job in self.all())
        if active >= self._per_owner:
            many = f"{active} fine-tunes" if active > 1 else "a fine-tune"
            raise PageError(f"you already have {many} at work or in line here: wait for it, or stop it first")
        if len(self._waiting()) >= MOST_WAITING:
            raise PageError(f"{MOST_WAITING} fine-tunes already wait; stop one of them first")

    def _queue(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        for name in ("stop", "exit.json", "process.json"):
            (job.folder / name).unlink(missing_ok=True)
        _write(job.folder / "queued", {"since": time.time_ns()})
        self.wake()

    def _waiting(self) -> list[Job]:
        """Queued jobs in order of asking."""
        queued = [(_read(job.folder / "queued"), job) for job in self.all()]
        known = [(marker["since"], job) for marker, job in queued if marker is not None]
        return [job for _, job in sorted(known, key=lambda pair: pair[0])]

    def _running(self) -> list[Job]:
        return [job for job in self.all() if self._process(job) is not None]

    def _watch(self) -> None:
        """Start the next job whenever none runs; ends when there is nothing to wait for."""
        while True:
            with self._lock:
                if not self._running():
                    waiting = self._waiting()
                    if not waiting:
                        self._patrol = None
                        return
                    self._launch(waiting[0])
            time.sleep(_PATROL_SECONDS)

    def _launch(self, job: Job) -> None:
        """Start the job's process; what goes wrong here is how the job ended."""
        try:
            (job.folder / "queued").unlink()
        except FileNotFoundError:
            return  # another page over the same folder was faster
        started = time.time()
        try:
            argv = list(self._command(job))
            with job.log.open("wb") as output:
                # No shell. A session of its own: Ctrl-C in the page's terminal is not meant for a training of hours.
                child = subprocess.Popen(
                    argv,
                    cwd=self._cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except (OSError, PageError) as error:
            with suppress(OSError):
                job.log.write_text(f"error: {error}\n", encoding="utf-8")
            _write(job.folder / "process.json", {"started": started})
            _write(job.folder / "exit.json", {"code": 1})
            return
        self._children[job.job_id] = child
        created = started
        with suppress(psutil.Error):
            process = psutil.Process(child.pid)
            created = process.create_time()
            process.nice(_GIVE_WAY)
        _write(job.folder / "process.json", {"pid": child.pid, "created": created, "started": started})

    def _process(self, job: Job) -> psutil.Process | None:
        """The job's live process. Notes the end of one that this page started."""
        if (child := self._children.get(job.job_id)) is not None:
            if child.poll() is None:
                return psutil.Process(child.pid)
            _write(job.folder / "exit.json", {"code": child.returncode})
            del self._children[job.job_id]
        facts = _read(job.folder / "process.json") or {}
        if "pid" not in facts or (job.folder / "exit.json").exists():
            return None
        try:
            process = psutil.Process(int(facts["pid"]))
            is_same = abs(process.create_time() - float(facts["created"])) < _SAME_PROCESS_SECONDS
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one; a folder that was just deleted stays deleted."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)
    except FileNotFoundError:
        log.info("%s went away before %s was written", path.parent, path.name)
