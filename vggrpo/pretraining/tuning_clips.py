"""Clips for supervised fine-tuning, by their captions: of the procedural world, filmed without jitter, or of a folder.

Latents are made once for a VAE and kept on disk, where ``train-lgm`` keeps its own.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vggrpo.pretraining import data
from vggrpo.pretraining.alignment_data import CachedEncoder, FrameSource
from vggrpo.pretraining.filmed_clips import FilmedClips
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents
from vggrpo.worlds import FIRST_TRAINING_SEED, make_clip, sample_scene
from vggrpo.worlds.clip_decoding import ClipShape, UnusableVideo, VideoClip, read_clip
from vggrpo.worlds.video_captions import TABLE_NAMES
from vggrpo.worlds.video_folder import ClipPicker, SkippedVideo
from vggrpo.worlds.video_layouts import list_videos

log = logging.getLogger(__name__)

_FARTHEST = 100_000
"""Worlds to look for a caption in: two hundred times as many as a training has captions."""


@dataclass(frozen=True, kw_only=True)
class SteadyFrames:
    """A clip of the procedural world whose camera does not shake."""

    seed: int
    shape: ClipShape

    @property
    def identity(self) -> str:
        """World, seed and size."""
        size = f"{self.shape.num_frames}x{self.shape.height}x{self.shape.width}"
        return f"world-v{data.CACHE_VERSION}:{self.seed}:steady:{size}"

    def frames(self) -> UInt8[np.ndarray, "N H W 3"]:
        """Rendered now."""
        shape = self.shape
        clip = make_clip(self.seed, num_frames=shape.num_frames, height=shape.height, width=shape.width, jitter=False)
        return clip.rgb


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """A clip of a video file."""

    clip: VideoClip

    @property
    def identity(self) -> str:
        """File, place and shape."""
        return self.clip.identity

    def frames(self) -> UInt8[np.ndarray, "N H W 3"]:
        """Decoded now. Raises UnusableVideo."""
        return read_clip(self.clip)


class SteadyWorldClips:
    """The training worlds, smoothly filmed: for each caption the first world that has it."""

    def __init__(self, encoder: CachedEncoder, *, shape: ClipShape) -> None:
        self._encoder = encoder
        self._shape = shape
        self._seeds: dict[str, int] = {}
        self._next = FIRST_TRAINING_SEED

    def latents(self, caption: str, *, number: int) -> Latents | None:  # noqa: ARG002 - one world has a caption
        """See ``vggrpo.grpo.models.TrainingClips``. Raises a UserError for a caption that no world has."""
        source = SteadyFrames(seed=self._seed_of(caption), shape=self._shape)
        return self._encoder.latents(source.identity, source.frames)

    def _seed_of(self, caption: str) -> int:
        """Worlds are looked through once, as far as captions ask for it."""
        while caption not in self._seeds:
            if self._next >= FIRST_TRAINING_SEED + _FARTHEST:
                raise UserError(
                    f"No clip of the procedural world has the caption {caption[:60]!r}: the world has changed since "
                    "this run was started; start a new folder."
                )
            self._seeds.setdefault(sample_scene(self._next).caption, self._next)
            self._next += 1
        return self._seeds[caption]


class CaptionedClips:
    """Clips of videos; those that share a caption take turns."""

    def __init__(self, sources: Mapping[str, Sequence[FrameSource]], encoder: CachedEncoder) -> None:
        self._sources = sources
        self._encoder = encoder
        self._unreadable: set[str] = set()

    @classmethod
    def of(cls, filmed: FilmedClips, encoder: CachedEncoder) -> "CaptionedClips":
        """The clips that ``pick_captioned_clips`` found."""
        sources: dict[str, list[FrameSource]] = {}
        for clip in filmed.clips:
            sources.setdefault(str(clip.source.caption), []).append(VideoFrames(clip=clip))
        return cls(sources, encoder)

    def latents(self, caption: str, *, number: int) -> Latents | None:
        """See ``vggrpo.grpo.models.TrainingClips``."""
        sharing = self._sources[caption]
        source = sharing[number % len(sharing)]
        try:
            return self._encoder.latents(source.identity, source.frames)
        except UnusableVideo as error:
            if source.identity not in self._unreadable:
                self._unreadable.add(source.identity)
                log.warning("left out: %s (%s)", source.identity, error)
            return None


def pick_captioned_clips(folder: Path, *, shape: ClipShape, count: int, seed: int) -> FilmedClips:
    """Up to ``count`` clips of a folder's videos that have captions, by reading headers alone.

    Raises:
        UserError: there is no such folder, no video has a caption, or not one is long enough.
    """
    listing = list_videos(folder, shape=shape)
    captioned = tuple(source for source in listing.sources if source.caption)
    silent = [SkippedVideo(name=s.name, reason="no caption") for s in listing.sources if not s.caption]
    if not captioned:
        raise UserError(
            f"No video in {folder} has a caption, and --objective sft learns from both: put a text file beside each "
            f"video, or one table for all ({', '.join(TABLE_NAMES)})."
        )
    picker = ClipPicker(
        listing=replace(listing, sources=captioned, skipped=(*listing.skipped, *silent)), shape=shape, seed=seed
    )
    clips = tuple(islice(picker.clips(), count))
    if not clips:
        first = next(one for one in picker.skipped if one.reason != "no caption")
        raise UserError(
            f"{folder} gives no clip of {shape.num_frames} frames at {shape.fps:g} a second: the videos with captions "
            f"were skipped, the first for: {first.name}: {first.reason}."
        )
    return FilmedClips(listing=listing, clips=clips, skipped=tuple(picker.skipped))
