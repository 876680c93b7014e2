"""A large part that is made when it is first asked for, and may be let go again."""

from collections.abc import Callable
from typing import Generic, TypeVar

Part = TypeVar("Part")


class Lazy(Generic[Part]):
    """One part of a model set. Not thread-safe: callers run one job at a time."""

    def __init__(self, make: Callable[[], Part]) -> None:
        """``make`` may be called again after ``release``, and must give the same part each time."""
        self._make = make
        self._part: Part | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the part is in memory now."""
        return self._part is not None

    def get(self) -> Part:
        """The part, made if it is not there."""
        if self._part is None:
            self._part = self._make()
        return self._part

    def release(self) -> None:
        """Forget the part; its memory is free once nobody else holds it."""
        self._part = None
