"""Hugging Face's ``spaces`` as far as its behaviour matters.

A call runs in a forked process, in a thread there, and all that goes in and out is pickled; closing the iterator tells
the process to stop; exceptions come back without their text.
"""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

asked_for: list[float] = []
"""Seconds of every call."""


class WorkerError(Exception):
    """What is left of an exception in the forked process."""


def GPU(*, duration: Callable[..., float]) -> Callable[..., Any]:  # noqa: N802 - its name there
    """The decorator, for generators."""

    def mark(task: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def handler(*arguments: Any) -> Iterator[Any]:
            asked_for.append(duration(*arguments))
            context = multiprocessing.get_context("fork")
            ours, theirs = context.Pipe()
            stop = context.Event()
            process = context.Process(target=_work, args=(task, theirs, stop), daemon=True)
            process.start()
            ours.send(arguments)
            try:
                while (message := ours.recv()) is not None:
                    if isinstance(message, WorkerError):
                        raise message
                    yield message[0]
            finally:
                stop.set()
                process.join(timeout=30)

        return handler

    return mark


def _work(task: Callable[..., Iterator[Any]], pipe: Connection, stop: Any) -> None:
    def iterate() -> None:
        steps = task(*pipe.recv())
        try:
            for message in steps:
                if stop.is_set():
                    steps.close()
                    break
                pipe.send((message,))
        except Exception as error:  # noqa: BLE001 - as there
            pipe.send(WorkerError(type(error).__name__))
        pipe.send(None)

    thread = threading.Thread(target=iterate)
    thread.start()
    thread.join()
