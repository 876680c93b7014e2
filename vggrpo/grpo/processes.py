"""The processes of a training, by accelerate: one, several GPUs, several nodes (``accelerate launch``).

The transformer is not wrapped for data parallelism. Every process keeps a whole model and its own groups, and the
adapter's gradient, a few million numbers, is summed over processes once an optimiser step. So the processes may hold
different numbers of usable videos, and switching the adapter off stays a plain method call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast
from jaxtyping import Float
from torch import Tensor

from vggrpo.runtime.errors import UserError

_PROJECT = "vggrpo"


def join_processes(device: torch.device) -> None:
    """Join the processes that ``accelerate launch`` started. To be called before models are loaded: it gives each
    process its own GPU, which is then what ``cuda`` means. Alone, it changes nothing.
    """
    PartialState(cpu=device.type == "cpu")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """What processes say to each other. Every method must be called by all of them."""

    accelerator: Accelerator

    @classmethod
    def open(cls, *, device: torch.device, out: Path, trackers: Sequence[str] = ()) -> "Processes":
        """Join the processes that ``accelerate launch`` started, or be the only one.

        Raises:
            UserError: a tracker is not installed.
        """
        for tracker in trackers:
            if find_spec(tracker) is None:
                raise UserError(f"The tracker {tracker} is not installed: pip install {tracker}, or leave it out.")
        on_cpu = device.type == "cpu"
        accelerator = Accelerator(cpu=on_cpu, log_with=list(trackers) or None, project_dir=out / "trackers")
        return cls(accelerator=accelerator)

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


def _gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _scalar(value: object) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else str(value)
