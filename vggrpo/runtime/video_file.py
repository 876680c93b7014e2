"""Video files: H.264 that every browser plays, and bounded reading of what people bring."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from jaxtyping import UInt8

from vggrpo.runtime.errors import UserError

MAX_SIDE = 8192
MAX_FRAME_PIXELS = 4096 * 2304
MAX_DECODED_BYTES = 2 * 2**30

# Containers that hold one video in one file. Playlists and scripts (HLS, concat, …), which would make the reader open
# other files or addresses, and text, which FFmpeg would gladly draw, are not among them.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf,gif"
# Visually lossless for clips this small: a reward's cause should not be hidden by compression.
_QUALITY = "12"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFrames:
    """Decoded frames; ``has_more`` says that the file goes on beyond them."""

    frames: UInt8[np.ndarray, "N H W 3"]
    fps: float
    has_more: bool


def write_video(path: Path, frames: UInt8[np.ndarray, "N H W 3"], *, fps: int | float) -> None:
    """Write H.264, yuv420p, index in front (faststart), atomically; equal frames give equal bytes.

    Raises ValueError for odd sides, which yuv420p cannot hold.
    """
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs even sides, got {width} × {height}")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".mp4")
    os.close(handle)
    building = Path(name)
    try:
        _encode(building, frames, fps=fps)
        building.chmod(0o644)
        building.replace(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise


def _encode(path: Path, frames: UInt8[np.ndarray, "N H W 3"], *, fps: int | float) -> None:
    """Equal frames to equal bytes: one thread, since x264's bytes depend on their number, and no macroblock tree.

    With the tree, PyAV 18.1's x264 wrote other bytes for equal frames about every third time on an AVX-512 processor
    (30 of 120 runs); without it, or without the processor's vector code, never (0 of 150).
    """
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _QUALITY, "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """A file's container with at least one video stream, of a size that may be decoded.

    Nothing is opened but the file itself. Raises a UserError for anything that is not such a video, also for what
    turns out to be damaged within the block.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a video file.")
    try:
        with av.open(str(path), options={"protocol_whitelist": "file", "format_whitelist": _FORMATS}) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video stream; give an .mp4, .webm or .mov file.")
            height, width = container.streams.video[0].height, container.streams.video[0].width
            if not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE or height * width > MAX_FRAME_PIXELS:
                raise UserError(f"{path} has frames of {width} × {height}; give a smaller video.")
            yield container
    except UserError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a video: give an .mp4, .webm or .mov file.") from error


def read_video(path: Path, *, max_frames: int, max_bytes: int = MAX_DECODED_BYTES) -> VideoFrames:
    """Decode the first ``max_frames`` frames. Raises a UserError for anything that is not such a video.

    No more frames are decoded than ``max_bytes`` hold.
    """
    with open_video(path) as container:
        return _decode(container, path=path, max_frames=max_frames, max_bytes=max_bytes)


def _decode(container: InputContainer, *, path: Path, max_frames: int, max_bytes: int) -> VideoFrames:
    """Frames of the first video stream."""
    stream = container.streams.video[0]
    height, width = stream.height, stream.width
    limit = min(max_frames, max_bytes // (3 * height * width))
    images: list[np.ndarray] = []
    has_more = False
    for frame in container.decode(stream):
        if len(images) == limit:
            has_more = True
            break
        if (frame.height, frame.width) != (height, width):
            raise UserError(f"{path} changes its size on the way; give a video of one size.")
        images.append(frame.to_ndarray(format="rgb24"))
    if not images:
        raise UserError(f"{path} holds no frame that can be decoded; give an .mp4, .webm or .mov file.")
    rate = stream.average_rate or stream.guessed_rate or Fraction(0)
    return VideoFrames(frames=np.stack(images), fps=float(rate), has_more=has_more)
