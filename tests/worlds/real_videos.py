"""Small videos and images with known content, written by the tests that read them."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from vggrpo.runtime.video_file import write_video

STEP = 6
"""Grey levels from one frame to the next: more than what compression changes."""


def counting_frames(count: int, *, height: int = 32, width: int = 48, first: int = 0) -> np.ndarray:
    """Frame k is grey throughout, of level 10 + 6 k."""
    levels = 10 + STEP * (first + np.arange(count))
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


def write_counting_video(path: Path, count: int, *, fps: float = 8, height: int = 32, width: int = 48) -> Path:
    """A video of ``counting_frames``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, counting_frames(count, height=height, width=width), fps=fps)
    return path


def numbers_of(frames: np.ndarray) -> list[int]:
    """Which of the counting frames each one is."""
    levels = frames.reshape(len(frames), -1).astype(float).mean(axis=1)
    return [round(float(level - 10) / STEP) for level in levels]


def write_lossless(path: Path, frames: np.ndarray, *, fps: int = 8) -> Path:
    """FFV1 in Matroska: the pixels come back as they are, and times are rounded to thousandths."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_counting_images(folder: Path, count: int, *, height: int = 32, width: int = 48) -> None:
    """``frame_00001.png`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(counting_frames(count, height=height, width=width)):
        Image.fromarray(image).save(folder / f"frame_{number + 1:05d}.png")
