"""Several processes of one training on this machine, quickly: they are forked from a server that has torch loaded.

The server is a clean process. Forking the tests' own would hand down autograd's threads, which do not survive it.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

_TORCH = ["tests.grpo.toy", "torch.distributed.fsdp", "accelerate"]


@dataclass(frozen=True, kw_only=True)
class Together:
    """Processes that were started; ``wait`` for them or kill one."""

    processes: tuple[BaseProcess, ...]
    folder: Path

    def wait(self, *, seconds: float = 240.0) -> tuple[int | None, ...]:
        """Exit codes; a process that hangs is killed and fails the test."""
        for process in self.processes:
            process.join(seconds)
        hung = [process for process in self.processes if process.is_alive()]
        for process in hung:
            process.kill()
        assert not hung, "a process hangs"
        return tuple(process.exitcode for process in self.processes)

    def said(self, rank: int) -> str:
        """What a process wrote on standard error."""
        return (self.folder / f"{rank}.log").read_text(encoding="utf-8")


def start(work: Callable[..., None], *arguments: object, count: int, folder: Path) -> Together:
    """Run ``work(rank, *arguments)`` in ``count`` processes that find each other as under accelerate."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_TORCH)
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(count):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        shared |= {"LOCAL_WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        process = context.Process(target=_begin, args=(work, rank, shared, folder, arguments), daemon=True)
        process.start()
        processes.append(process)
    return Together(processes=tuple(processes), folder=folder)


def _begin(
    work: Callable[..., None], rank: int, shared: dict[str, str], folder: Path, arguments: tuple[object, ...]
) -> None:
    os.environ.update(shared)
    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, sys.stderr.fileno())
    work(rank, *arguments)
