"""The processes of a training, by accelerate: one, several GPUs, several nodes (``accelerate launch``).

The transformer is not wrapped for data parallelism. Every process keeps a whole model and its own groups, and the
adapter's gradient, a few million numbers, is summed over processes once an optimiser step. So the processes may hold
different numbers of usable videos, and switching the adapter off stays a plain method call.

Where the base is too large for one GPU its frozen weights are shared out (FSDP), block by block. The adapter is left
out of that: it stays whole and equal on every process, is summed as before, and a checkpoint of it needs no gathering.
What changes is that the weights of a block are gathered by all processes together, so all must run the transformer
equally often (``in_step``); who has less to do runs it for nothing (``idle_passes``).

A process that dies takes the job with it: the others' next message fails (at once under gloo, after ``PATIENCE`` or by
the launcher's hand under NCCL), and they say so in one line.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs, broadcast
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor

from vggrpo.policy.adapter import adapter_parameters
from vggrpo.runtime.errors import UserError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: one writes sample videos meanwhile."""

_PROJECT = "vggrpo"
_LOST = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "socket", "store")
"""Words of the errors with which a message to a dead process fails."""


def join_processes(device: torch.device) -> None:
    """Join the processes that ``accelerate launch`` started. To be called before models are loaded: it gives each
    process its own GPU, which is then what ``cuda`` means. Alone, it changes nothing.
    """
    PartialState(cpu=device.type == "cpu", timeout=PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """What processes say to each other. Every method must be called by all of them."""

    accelerator: Accelerator
    shard_base: bool = False
    """Whether the base's weights are to be shared out."""

    @classmethod
    def open(
        cls, *, device: torch.device, out: Path, trackers: Sequence[str] = (), shard_base: bool = False
    ) -> "Processes":
        """Join the processes that ``accelerate launch`` started, or be the only one.

        The base is shared out if ``shard_base``, or if they were started for FSDP.

        Raises:
            UserError: a tracker is not installed.
        """
        for tracker in trackers:
            if find_spec(tracker) is None:
                raise UserError(f"The tracker {tracker} is not installed: pip install {tracker}, or leave it out.")
        on_cpu = device.type == "cpu"
        accelerator = Accelerator(
            cpu=on_cpu,
            log_with=list(trackers) or None,
            project_dir=out / "trackers",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        # What `accelerate launch` says of a configuration for FSDP.
        by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        return cls(accelerator=accelerator, shard_base=shard_base or by_launcher)

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.accelerator.is_main_process

    @property
    def in_step(self) -> bool:
        """Whether all processes must run the transformer equally often, because they hold parts of it."""
        return self.shard_base and self.count > 1

    def shard(self, transformer: WanTransformer3DModel) -> None:
        """Share out the frozen weights of a transformer whose adapter is on; nothing happens to one process alone."""
        if not self.in_step:
            return
        from torch.distributed.fsdp import fully_shard

        whole = set(adapter_parameters(transformer).values())
        for block in transformer.blocks:
            fully_shard(block, ignored_params=whole)
        fully_shard(transformer, ignored_params=whole)

    def idle_passes(self, passes: int) -> int:
        """How many passes this process must add to its ``passes`` to keep step with the others."""
        return int(self.largest(float(passes))) - passes if self.in_step else 0

    def share(self, total: int) -> range:
        """This process's part of ``total`` things, consecutive. Raises a UserError if they cannot be shared evenly."""
        if total % self.count:
            raise UserError(
                f"{total} groups cannot be shared evenly by {self.count} processes: give --groups a multiple of "
                f"{self.count}."
            )
        size = total // self.count
        return range(self.rank * size, (self.rank + 1) * size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes."""
        return tensor if self.count == 1 else self.accelerator.reduce(tensor, reduction="sum")

    def largest(self, value: float) -> float:
        """The largest of all processes' values; NaN if one of them is."""
        if self.count == 1:
            return value
        everybody = self.accelerator.gather(torch.tensor([value], dtype=torch.float64, device=self.accelerator.device))
        return float(everybody.max())

    def any(self, wish: bool) -> bool:  # noqa: FBT001 - reads as a sentence
        """Whether one of the processes wishes it."""
        return self.largest(float(wish)) > 0.0

    def gather(self, rows: Float[Tensor, "n ..."]) -> Float[Tensor, "m ..."]:
        """Rows of all processes, in the order of the processes."""
        return rows if self.count == 1 else self.accelerator.gather(rows.contiguous())

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace gradients by their sum over processes, in one message."""
        if self.count == 1:
            return
        with_gradient = list(parameters)
        flat = torch.cat([_gradient_of(p).flatten() for p in with_gradient])
        parts = self.sum(flat).split([p.numel() for p in with_gradient])
        for parameter, part in zip(with_gradient, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def make_equal(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the main one's values."""
        if self.count > 1:
            for parameter in parameters:
                parameter.data.copy_(broadcast(parameter.data.clone(), from_process=0))

    def wait(self) -> None:
        """Until all are here."""
        self.accelerator.wait_for_everyone()

    def open_trackers(self, config: Mapping[str, object]) -> None:
        """Begin the trackers' run."""
        plain = {name: _scalar(value) for name, value in config.items()}
        self.accelerator.init_trackers(_PROJECT, config=plain)

    def track(self, metrics: Mapping[str, float], *, iteration: int) -> None:
        """Send an iteration's numbers to the trackers."""
        self.accelerator.log(dict(metrics), step=iteration)

    def close_trackers(self) -> None:
        """End the trackers' run; the processes stay joined."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


@contextmanager
def naming_a_lost_process(processes: Processes) -> Iterator[None]:
    """Raise a UserError where a message fails because another process is gone; other errors pass."""
    try:
        yield
    except RuntimeError as error:
        if processes.count == 1 or not _is_lost(error):
            raise
        raise UserError(
            f"another of the {processes.count} processes of this training ended, so process {processes.rank} stops, "
            "too. The last checkpoint is kept: start all of them again with --resume."
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(word in str(error).lower() for word in _LOST)


def _gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _scalar(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
