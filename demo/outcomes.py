"""What became of a fine-tune, in words: its process and the trainer's own status, read together."""

import time
from dataclasses import dataclass, replace
from signal import SIGKILL, SIGTERM
from typing import Literal

from demo.jobs import Job, ProcessState
from demo.training_runs import TrainerStatus, newest_checkpoint, read_status, tail

StateName = Literal["queued", "starting", "running", "stopping", "stopped", "finished", "failed"]
ACTIVE: frozenset[StateName] = frozenset({"queued", "starting", "running", "stopping"})

_MISUSED = 2
_ENDED_BY_SIGTERM = {-int(SIGTERM), 128 + int(SIGTERM)}
_ENDED_BY_SIGKILL = {-int(SIGKILL), 128 + int(SIGKILL)}
_OWN_WORD = "error: "
"""What the trainer begins its last line with."""
OUT_OF_MEMORY = "It ran out of memory: lower the group size, or close other programs."
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "memoryerror", "cannot allocate memory")
_LOG_LINES_SEARCHED = 12


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where a fine-tune stands."""

    state: StateName
    message: str
    iteration: int
    iterations: int
    seconds_left: float | None = None
    can_resume: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it still waits or works."""
        return self.state in ACTIVE


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """One fine-tune as it stands."""

    job: Job
    outcome: Outcome

    @property
    def title(self) -> str:
        """Its name in lists: when it was asked for, and what."""
        settings = self.job.settings
        when = time.strftime("%d %b %H:%M", time.localtime(self.job.created))
        return f"{when} · {settings.get('preset')} · {settings.get('iterations')} × {settings.get('group_size')}"


def read_outcome(job: Job, process: ProcessState) -> Outcome:
    """The state of a job with one sentence that says what happened, and what can be done about it."""
    status = read_status(job.run)
    if status is not None:
        status = replace(status, message=_without_paths(status.message, job))
    done = status.iteration if status else 0
    asked = int(job.settings.get("iterations") or 0) or (status.iterations if status else 0)
    if process.progress == "queued":
        message = "Next in line." if process.place == 1 else f"Number {process.place} in line."
        return Outcome(state="queued", message=message, iteration=done, iterations=asked)
    if process.progress == "starting" or (process.progress == "running" and status and status.state == "starting"):
        return Outcome(state="starting", message="Loading the models.", iteration=done, iterations=asked)
    if process.progress == "stopping":
        message = "Finishing the iteration, then keeping a checkpoint. Press again to end it at once."
        return Outcome(state="stopping", message=message, iteration=done, iterations=asked)
    if process.progress == "running" and status is not None:
        left = status.seconds_left
        return Outcome(
            state="running", message=_sentence(status.message), iteration=done, iterations=asked, seconds_left=left
        )
    return _ended(job, process, status=status, iterations=asked)


def _ended(job: Job, process: ProcessState, *, status: TrainerStatus | None, iterations: int) -> Outcome:
    """An ended process: its trainer's last word counts if this process spoke it, else how the process went."""
    done = status.iteration if status else 0
    is_fresh = status is not None and process.started is not None and status.written >= process.started
    if status is not None and is_fresh and status.state == "finished":
        message = _sentence(status.message) or f"All {iterations} iterations are done."
        return Outcome(state="finished", message=message, iteration=done, iterations=iterations)
    state: StateName = "failed"
    if status is not None and is_fresh and status.state == "stopped":
        state, message = "stopped", _sentence(status.message) or f"Stopped after iteration {done}."
    elif process.started is None:
        state, message = "stopped", "Taken out of the queue."
    elif process.exit_code in _ENDED_BY_SIGTERM or (process.exit_code == 0 and process.stop_asked):
        state, message = "stopped", f"Stopped{_after(done)}."
    elif process.exit_code in _ENDED_BY_SIGKILL and process.stop_asked:
        state, message = "stopped", f"Ended at once{_after(done)}."
    else:
        message = _failure(job, process, said=status.message if status and is_fresh else "")
    return Outcome(
        state=state,
        message=f"{message}{_kept(job)}",
        iteration=done,
        iterations=iterations,
        can_resume=True,
    )


def _failure(job: Job, process: ProcessState, *, said: str) -> str:
    """Why a process ended that nobody asked to."""
    lines = [_without_paths(line, job) for line in tail(job.log, lines=_LOG_LINES_SEARCHED)]
    if process.exit_code is None:
        return "The process is gone without a word: it was killed, the machine was restarted, or it ran out of memory."
    if process.exit_code in _ENDED_BY_SIGKILL:
        return (
            "The process was killed (signal 9). Unless somebody did that on purpose, the machine ran out of memory: "
            "lower the group size, or close other programs."
        )
    if of_memory := [line for line in lines if any(word in line.lower() for word in _MEMORY_WORDS)]:
        # The trainer's own line names the setting to lower; a library's does not.
        own = next((line for line in reversed(of_memory) if line.startswith(_OWN_WORD)), "")
        return _sentence(own.removeprefix(_OWN_WORD)) or OUT_OF_MEMORY
    if process.exit_code < 0:
        return f"The process was ended by signal {-process.exit_code}."
    last = said or (lines[-1] if lines else "")
    reason = _sentence(last.removeprefix(_OWN_WORD)) or "The process ended without a word."
    return reason if process.exit_code == _MISUSED else f"{reason} The log below has the details."


def _sentence(text: str) -> str:
    """The trainer's words with a capital and a full stop."""
    text = text.strip()
    return text and f"{text[0].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def _without_paths(text: str, job: Job) -> str:
    """Where this server keeps its files is no visitor's business."""
    return text.replace(str(job.run), "its folder").replace(str(job.folder), "its folder")


def _after(iteration: int) -> str:
    return f" after iteration {iteration}" if iteration else " before the first iteration"


def _kept(job: Job) -> str:
    """What a resume would start from."""
    step = newest_checkpoint(job.run)
    return "" if step is None else f" The checkpoint of iteration {step} is kept."
