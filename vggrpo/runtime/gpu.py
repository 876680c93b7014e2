"""Whether this machine has a GPU, asked of the driver itself: importing torch for it would take seconds."""

import ctypes
import platform
from functools import cache


@cache
def has_gpu() -> bool:
    """An NVIDIA GPU that its driver sees, or Apple's own."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return _nvidia_gpus() > 0


def _nvidia_gpus() -> int:
    """How many GPUs NVIDIA's management library counts; it makes no CUDA context."""
    name = "nvml.dll" if platform.system() == "Windows" else "libnvidia-ml.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return 0
    if library.nvmlInit_v2() != 0:
        return 0
    count = ctypes.c_uint(0)
    failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    library.nvmlShutdown()
    return 0 if failed else count.value
