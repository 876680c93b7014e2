"""What a piece of work allocates: tensors only, exact and repeatable, unlike the resident set of the whole process.

The resident set keeps what an earlier piece of work has freed, so two routes through the same models could not be told
apart by it in one process (``vggrpo.runtime.memory`` has that number, for a process as a whole).
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

MEBIBYTE = 2**20
_MEMORY_EVENT = "[memory]"


def peak_allocation_mb(work: Callable[[], object], *, device: torch.device) -> float:
    """The most MiB of tensors that ``work`` held at once, beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler
    assert results is not None, "the profiler has run"
    held = peak = 0
    for event in results.kineto_results.events():
        if event.name() == _MEMORY_EVENT:
            held += event.nbytes()
            peak = max(peak, held)
    return peak / MEBIBYTE


def weights_mb(*modules: nn.Module) -> float:
    """MiB of the parameters and buffers of modules."""
    tensors = {
        id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())
    }.values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / MEBIBYTE
