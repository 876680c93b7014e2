"""SIGTERM and Ctrl-C as a wish that a loop hears between two steps, instead of an end in the middle of one."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SignalHandler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Within it the first signal sets ``asked``; a second one acts as it did before (main thread only)."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, SignalHandler] = {}

    def __enter__(self) -> "StopSignals":
        """Take over the handlers; elsewhere than in the main thread nothing changes."""
        try:
            self._previous = {number: signal.signal(number, self._ask) for number in _CAUGHT}
        except ValueError:
            self._previous = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        self._restore()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
