"""The machine that a plan is for: this one, or one that the user describes."""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from vggrpo.runtime.device import choose_device, choose_dtype

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CUDA_CONTEXT = 0.7 * 2**30
_ROUNDING = 1.08


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where a training would run."""

    name: str
    memory_bytes: float
    dtype: torch.dtype
    """What models are held in there."""
    flops: float | None = None
    """Rate of large matrix products in that dtype; None: not known, so no times are told."""
    context_bytes: float = 0.0
    """Taken by the device's own context and libraries, before the first tensor."""
    rounding: float = _ROUNDING
    """The allocator's blocks are larger than tensors, and cannot all be used: what is held, over what is asked for."""

    @property
    def usable_bytes(self) -> float:
        """Tensors that fit."""
        return (self.memory_bytes - self.context_bytes) / self.rounding


def described_machine(*, memory_gib: float, tflops: float | None) -> Machine:
    """A GPU with this much memory, for bf16."""
    return Machine(
        name=f"a GPU with {memory_gib:g} GiB",
        memory_bytes=memory_gib * 2**30,
        dtype=torch.bfloat16,
        flops=None if tflops is None else tflops * 1e12,
        context_bytes=_CUDA_CONTEXT,
    )


def this_machine(*, device: torch.device | None = None) -> Machine:
    """This machine's GPU, else its main memory (within the limit of the container it runs in)."""
    device = device or choose_device()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Machine(
            name=properties.name,
            memory_bytes=float(properties.total_memory),
            dtype=choose_dtype(device),
            context_bytes=_CUDA_CONTEXT,
        )
    memory = psutil.virtual_memory().total
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    memory = min(memory, int(limit)) if limit.isdigit() else memory
    return Machine(name=str(device), memory_bytes=float(memory), dtype=choose_dtype(device))


def measure_matrix_rate(device: torch.device, dtype: torch.dtype, *, size: int = 0, seconds: float = 0.5) -> float:
    """Floating-point operations a second of square matrix products, the fastest of some: no model is faster.

    ``size`` 0 takes 8192 on a GPU and 1024 elsewhere, where larger products bring no more.
    """
    side = size or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))

    def once() -> float:
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        return time.perf_counter() - began

    once()
    times = [once()]
    while sum(times) < seconds:
        times.append(once())
    return 2.0 * side**3 / min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
