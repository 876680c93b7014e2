"""One clip out of a video file or a folder of images: as many frames as asked for, at the rate asked for.

Decoding streams: a video is entered at the key frame before the clip and left behind its last frame, and besides the
clip itself only the frame at hand is held. Frame k of a clip is what a viewer sees k / fps seconds after its start,
so that another rate repeats or leaves out frames and never blends them (a blend is no view of any scene).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av import VideoFrame
from av.container import InputContainer
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.video_file import MAX_FRAME_PIXELS, open_video
from vggrpo.worlds.frame_resizing import crop_and_resize

TICK = 1e-3
"""Seconds that a frame may be early: containers round times to thousandths."""
_MICROSECONDS = 1_000_000


class UnusableVideo(Exception):
    """A video gives no clip; the message is the reason, without the video's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipShape:
    """What every clip is brought to; ``fps`` frames a second."""

    num_frames: int
    height: int
    width: int
    fps: int | float

    @property
    def seconds(self) -> float:
        """How long a clip is, its last frame included."""
        return self.num_frames / self.fps


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSource:
    """A stretch of video to take clips from.

    ``name`` is its path in the folder (with the stretch, where a file has several), ``files`` one video file or images
    in order. ``start`` and ``end`` are seconds in the file; ``end`` None is the file's own.
    """

    name: str
    files: tuple[Path, ...]
    is_images: bool = False
    start: int | float = 0.0
    end: int | float | None = None
    caption: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoClip:
    """A clip to be read: ``start`` seconds into its source."""

    source: VideoSource
    start: int | float
    shape: ClipShape

    @property
    def identity(self) -> str:
        """Equal for equal frames: the file's name, size and time of change, the start and the shape."""
        shape = self.shape
        states = [file.stat() for file in (self.source.files[0], self.source.files[-1])]
        file = f"{len(self.source.files)}:" + ":".join(f"{state.st_size}-{state.st_mtime_ns}" for state in states)
        size = f"{shape.num_frames}x{shape.height}x{shape.width}@{shape.fps:g}"
        return f"video:{self.source.name}:{self.source.start:.6f}+{self.start:.6f}:{file}:{size}"


def seconds_of(source: VideoSource, *, fps: int | float) -> float:
    """How long a source is; images carry no time and count as one frame each, at ``fps``.

    Raises:
        UnusableVideo: the file cannot be read, or does not tell how long it is.
    """
    if source.is_images:
        return len(source.files) / fps
    try:
        with open_video(source.files[0]) as container:
            whole = _duration(container)
    except UserError as error:
        raise UnusableVideo(_reason(error, source.files[0])) from error
    return (whole if source.end is None else min(source.end, whole)) - source.start


def read_clip(clip: VideoClip) -> UInt8[np.ndarray, "N H W 3"]:
    """The clip's frames, cropped to the middle and resized by area.

    Raises:
        UnusableVideo: the file is damaged, ends too early, or changes its size.
    """
    frames = list(_images(clip) if clip.source.is_images else _decoded(clip))
    if len(frames) < clip.shape.num_frames:
        raise UnusableVideo(f"too short: only {len(frames)} of {clip.shape.num_frames} frames can be decoded")
    return np.stack(frames)


def _images(clip: VideoClip) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Consecutive images."""
    first = round(clip.start * clip.shape.fps)
    for path in clip.source.files[first : first + clip.shape.num_frames]:
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_FRAME_PIXELS:
                    raise UnusableVideo(f"{path.name} has {image.width} × {image.height} pixels")
                pixels = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            # Pillow raises SyntaxError for a broken PNG and ValueError for a broken JPEG.
            raise UnusableVideo(f"{path.name} cannot be read as an image") from error
        yield crop_and_resize(pixels, height=clip.shape.height, width=clip.shape.width)


def _decoded(clip: VideoClip) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video file; entered by its index, or from the beginning where that points behind the clip."""
    path = clip.source.files[0]
    try:
        for by_index in (True, False):
            with open_video(path) as container:
                try:
                    yield from _shown_at(container, clip, by_index=by_index)
                    return
                except _EnteredTooLateError:
                    continue
    except UserError as error:
        raise UnusableVideo(_reason(error, path)) from error


class _EnteredTooLateError(Exception):
    """The first frame after a jump lies behind the clip's start."""


def _shown_at(container: InputContainer, clip: VideoClip, *, by_index: bool) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames on screen at the clip's times; stops early where the video ends."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    begin = clip.source.start + clip.start
    times = [begin + number / clip.shape.fps for number in range(clip.shape.num_frames)]
    base = float(stream.time_base or 0)
    origin = (stream.start_time or 0) * base
    if by_index and begin > 0:
        container.seek(round((origin + begin) * _MICROSECONDS))
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    wanted = 0
    shown: VideoFrame | None = None
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        time = frame.pts * base - origin
        while wanted < len(times) and time > times[wanted] + TICK:
            if shown is None and by_index and begin > 0:
                raise _EnteredTooLateError
            # A first frame that comes late stands for the time before it, as players do.
            yield _prepared(frame if shown is None else shown, clip, pixel_aspect=aspect)
            wanted += 1
        if wanted == len(times):
            return
        if shown is not None and (frame.width, frame.height) != (shown.width, shown.height):
            raise UnusableVideo("changes its size on the way")
        shown = frame
    if shown is None or shown.pts is None:
        raise UnusableVideo("holds no frame that can be decoded there")
    rate = float(stream.average_rate or stream.guessed_rate or clip.shape.fps)
    until = shown.pts * base - origin + max((shown.duration or 0) * base, 1 / rate)
    while wanted < len(times) and times[wanted] < until - TICK:
        yield _prepared(shown, clip, pixel_aspect=aspect)
        wanted += 1


def _prepared(frame: VideoFrame, clip: VideoClip, *, pixel_aspect: float) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame upright (phones store a turn, not turned pixels), cropped and resized."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    if turns:
        image = np.rot90(image, turns)
    aspect = 1 / pixel_aspect if turns % 2 else pixel_aspect
    return crop_and_resize(image, height=clip.shape.height, width=clip.shape.width, pixel_aspect=aspect)


def _duration(container: InputContainer) -> float:
    """Seconds of the first video stream, by its header, else by the times of its packets."""
    stream = container.streams.video[0]
    base = float(stream.time_base or 0)
    if stream.duration:
        return float(stream.duration * base)
    if container.duration:
        return container.duration / _MICROSECONDS
    origin = stream.start_time or 0
    ends = [
        packet.pts - origin + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None
    ]
    if not ends:
        raise UnusableVideo("holds no frame that can be decoded")
    return max(ends) * base


def _reason(error: UserError, path: Path) -> str:
    """The error of a file without its path, for a list that names it already."""
    return str(error).removeprefix(f"{path} ").split(";", maxsplit=1)[0].split(":", maxsplit=1)[0].rstrip(".")
