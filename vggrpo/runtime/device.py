"""Device, dtype and threads, decided in one place.

Threads: with two threads while any other process is busy, small parallel regions wait for a lost core and a forward
pass takes up to 50 times as long. So background training takes one thread, and the page takes them all.
"""

import os
import platform
from pathlib import Path
from typing import Literal

import torch

Use = Literal["interactive", "background"]


def choose_device() -> torch.device:
    """The first CUDA GPU, else Apple's, else the CPU; of several processes, each takes the GPU of its own number.

    ``accelerate launch`` and torchrun say that number in LOCAL_RANK. Models are loaded before the processes join, so
    without it all of them would fill the first GPU.
    """
    if torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK", "")
        return torch.device("cuda", int(rank)) if rank.isdigit() else torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matrix products are fast (GPUs, CPUs with AMX or AVX-512 bf16), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and cpu_has_fast_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(cpu.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def set_threads(use: Use) -> int:
    """Set torch's thread count for a kind of work and return it. ``OMP_NUM_THREADS`` has the last word."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    free = 1 if use == "background" else os.cpu_count() or 1
    count = int(asked) if asked.isdigit() and int(asked) > 0 else free
    torch.set_num_threads(count)
    return count


def describe_device(device: torch.device) -> str:
    """For people: a GPU's name, or the processor's with the threads that torch may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{_processor_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _processor_name() -> str:
    """What Linux calls the processor, else its architecture."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.machine() or "a processor"
