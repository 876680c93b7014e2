"""Peak memory of this process: on a GPU what torch allocated there, elsewhere the resident set."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_CLEAR_PEAK = "5"
_MEGABYTE = 2**20


def peak_memory_mb(device: torch.device) -> float:
    """The largest amount in use since the process began, or since ``reset_peak_memory``, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / _MEGABYTE
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, kilobytes elsewhere.
    return peak / _MEGABYTE if sys.platform == "darwin" else peak / 1024


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak at what is in use now; where the system cannot (not Linux), the old peak stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
