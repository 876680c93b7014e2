"""What a person sees: results on standard output, progress and notes on standard error."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A command's result: a JSON object, and the same for people (text, a table, or several)."""

    result: Mapping[str, object]
    shown: "str | Table | Group"


@runtime_checkable
class Report(Protocol):
    """The part of ``vggrpo.generation.Progress`` that is shown."""

    @property
    def phase(self) -> str: ...  # noqa: D102 - see the class

    @property
    def done(self) -> int: ...  # noqa: D102

    @property
    def total(self) -> int: ...  # noqa: D102

    @property
    def seconds_left(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A report of ``PhaseProgress.counter``."""

    phase: str
    done: int
    total: int
    seconds_left: float


class PhaseProgress:
    """A line of progress with the time left; where no terminal looks on, one plain line a phase of ``generate``."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, left="")
        self._phase = ""
        self._announced = ""

    def __enter__(self) -> "PhaseProgress":
        """Show the line."""
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it away."""
        if self._console.is_terminal:
            self._progress.stop()

    def show(self, report: Report) -> None:
        """Take a report of ``generate``."""
        left = "" if report.seconds_left is None else f"{report.seconds_left:.0f} s left"
        if not self._console.is_terminal:
            self._announce(report, left=left)
        self.phase(report.phase)
        self._progress.update(self._task, completed=report.done, total=report.total, left=left)

    def counter(self, phase: str, *, total: int) -> Callable[[int], None]:
        """A function to tell how many of ``total`` are done; the time left goes by the pace since this call."""
        began = time.monotonic()

        def count(done: int) -> None:
            left = (time.monotonic() - began) / done * (total - done)
            self.show(Count(phase=phase, done=done, total=total, seconds_left=left))

        return count

    def _announce(self, report: Report, *, left: str) -> None:
        """A plain line a phase, from the first step that is done: a mistake found before stands on a line alone."""
        if report.phase != self._announced and (self._announced or report.done):
            self._announced = report.phase
            note(f"{report.phase} … {left}".rstrip())

    def phase(self, name: str) -> None:
        """A new phase begins (or the same one goes on), of a length that nobody knows yet."""
        if name != self._phase:
            self._phase = name
            self._progress.reset(self._task, description=name, total=None, left="")


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print a result; with ``as_json`` one JSON object on the last line."""
    if as_json:
        sys.stdout.write(json.dumps(outcome.result, ensure_ascii=False, allow_nan=False) + "\n")
    elif isinstance(outcome.shown, str):
        sys.stdout.write(outcome.shown.rstrip() + "\n")
    else:
        Console().print(outcome.shown)
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(" ".join(text.split()) + "\n")
    sys.stderr.flush()


def rewards_table(rewards: Mapping[str, object], *, title: str) -> Table:
    """The contents of ``rewards.json`` for people."""
    table = Table(title=title, title_justify="left")
    for heading in ("reward", "value", "worst frames", "note"):
        table.add_column(heading)
    for name, entry in rewards.items():
        if not isinstance(entry, Mapping):
            continue
        if "per_frame" not in entry:
            for guard, value in entry.items():
                table.add_row(guard.replace("_", " "), _number(value), "", "guard")
            continue
        worst = entry.get("worst_frames") or []
        frames = ", ".join(str(frame) for frame in worst) if isinstance(worst, list) else ""
        table.add_row(name.replace("_", " "), _number(entry["value"]), frames, str(entry.get("reason", "")))
    return table


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else "–"
