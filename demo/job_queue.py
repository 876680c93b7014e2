"""One line for everything that uses the models: first come, first served, and nobody takes more than their share.

Gradio has a queue of its own, but it neither knows visitors nor tells those who wait where they stand. So all waiting
requests are let in (``MOST_AT_ONCE``) and wait here.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from demo.visitors import Visitor, owner

MOST_AT_ONCE = 16
"""Requests that Gradio lets in at once, at work or waiting here; it has 40 threads for all that the page does."""

HEARTBEAT = 0.5
"""Seconds between two reports of a job, and so the longest that a cancel waits to be heard."""
_PATIENCE = 60.0
"""Seconds after which a place in the line that nobody asks for is given away."""


class PageError(ValueError):
    """Something that the visitor can put right; the message is one line for them."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """How far a job is: ``done`` of ``total`` steps of a phase, and a guess of the seconds to the end of all."""

    phase: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    side: str = ""
    """Which of two videos it works on, for a pair."""
    ahead: int = 0
    """How many others come first, for a job that waits."""


Report = Callable[[StepReport], None]
ShouldStop = Callable[[], bool]
Result = TypeVar("Result")
Work = Callable[[Report, ShouldStop], Result]


@dataclass(eq=False)
class _Ticket:
    """A place in the line."""

    visitor: str
    stop: threading.Event = field(default_factory=threading.Event)
    is_waiting: bool = True
    seen: float = field(default_factory=time.monotonic)
    """When its visitor last asked for news."""

    @property
    def is_forgotten(self) -> bool:
        """Whether nobody asks for it any more, though nobody said that they would leave."""
        return self.is_waiting and time.monotonic() - self.seen > _PATIENCE


class JobQueue:
    """Runs jobs, each in a thread of its own, so that a cancelled or closed page can stop it between two steps."""

    def __init__(self, *, per_visitor: int, most: int, visitor: Visitor = owner) -> None:
        self._per_visitor = per_visitor
        self._most = most
        self._visitor = visitor
        self._line: list[_Ticket] = []
        self._changed = threading.Condition()

    def run(self, work: Work[Result]) -> Generator[StepReport | Result, None, None]:
        """Reports, then the result; what the job raises is raised here. Closing the iterator stops the job.

        Raises ``PageError`` where the visitor, or everybody together, asks for too much.
        """
        ticket = self._enter()
        is_started = False
        try:
            yield from self._wait(ticket)
            inbox: queue.Queue[StepReport | Result | Exception] = queue.Queue()
            threading.Thread(
                target=self._work_through, args=(ticket, work, inbox), name="studio-job", daemon=True
            ).start()
            is_started = True
            yield from _reports(inbox)
        finally:
            ticket.stop.set()
            if not is_started:
                self._leave(ticket)

    def run_here(
        self, follow: Callable[[], Iterator[StepReport | Result]]
    ) -> Generator[StepReport | Result, None, None]:
        """The same for a job that is an iterator itself and must run in the thread that asks for it."""
        ticket = self._enter()
        try:
            yield from self._wait(ticket)
            yield from follow()
        finally:
            self._leave(ticket)

    def _work_through(
        self, ticket: _Ticket, work: Work[Result], inbox: "queue.Queue[StepReport | Result | Exception]"
    ) -> None:
        """The job's thread. The next in line starts only when this one is really over: memory holds one."""
        try:
            inbox.put(work(inbox.put, ticket.stop.is_set))
        except Exception as error:  # noqa: BLE001 - the job's thread ends here; the page's thread decides
            inbox.put(error)
        finally:
            self._leave(ticket)

    def _enter(self) -> _Ticket:
        """A place at the end of the line."""
        ticket = _Ticket(self._visitor())
        with self._changed:
            self._line = [other for other in self._line if not other.is_forgotten]
            mine = Counter(other.visitor for other in self._line)[ticket.visitor]
            if mine >= self._per_visitor:
                many = f"{mine} jobs" if mine > 1 else "a job"
                raise PageError(f"You already have {many} at work or in line here: wait for it, or cancel it.")
            if len(self._line) >= self._most:
                raise PageError(f"{len(self._line)} jobs are already in line here: please try again in a few minutes.")
            self._line.append(ticket)
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        with self._changed:
            self._line = [other for other in self._line if other is not ticket]
            self._changed.notify_all()

    def _wait(self, ticket: _Ticket) -> Iterator[StepReport]:
        """A report a heartbeat until it is this ticket's turn. Raises ``PageError`` where its place was given away."""
        while True:
            with self._changed:
                ticket.seen = time.monotonic()
                self._line = [other for other in self._line if not other.is_forgotten]
                if ticket not in self._line:
                    raise PageError("This place in line was given away because nobody asked for it: please try again.")
                ahead = self._line.index(ticket)
                ticket.is_waiting = ahead > 0
            if ahead == 0:
                return
            yield StepReport(phase="queue", ahead=ahead)
            with self._changed:
                if self._line[ahead : ahead + 1] == [ticket]:
                    self._changed.wait(timeout=HEARTBEAT)


def _reports(inbox: "queue.Queue[StepReport | Result | Exception]") -> Iterator[StepReport | Result]:
    """The newest message of the job at a time, the last report again after a heartbeat of silence."""
    message: StepReport | Result | Exception = StepReport(phase="load")
    while isinstance(message, StepReport):
        yield message
        message = _next(inbox, otherwise=message)
    if isinstance(message, Exception):
        raise message
    yield message


def _next(
    inbox: "queue.Queue[StepReport | Result | Exception]", *, otherwise: StepReport
) -> StepReport | Result | Exception:
    try:
        message = inbox.get(timeout=HEARTBEAT)
        while isinstance(message, StepReport) and not inbox.empty():
            message = inbox.get_nowait()
    except queue.Empty:
        return otherwise
    return message
