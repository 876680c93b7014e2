"""Frames of a short video as arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """``rgb`` uint8 [N, H, W, 3] and the frames per second that the container states."""

    rgb: NDArray[np.uint8]
    fps: float


def read_frames(path: Path) -> VideoFrames:
    """Decode all frames of a video. Raises ``av.error.FFmpegError`` for a file that is no video."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 8)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return VideoFrames(rgb=np.stack(frames).astype(np.uint8, copy=False), fps=fps)


def resize_frames(rgb: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
    """Frames [N, h, w, 3] sampled at the pixel centres of an H×W grid (nearest), for colours of points."""
    source_height, source_width = rgb.shape[1:3]
    if (source_height, source_width) == (height, width):
        return rgb
    rows = ((np.arange(height) + 0.5) * source_height / height).astype(int)
    columns = ((np.arange(width) + 0.5) * source_width / width).astype(int)
    return rgb[:, rows[:, None], columns]
