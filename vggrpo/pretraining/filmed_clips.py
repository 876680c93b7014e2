"""Real videos as training clips: picked, decoded and encoded, and a list of what could not be used."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from vggrpo.pretraining.alignment_data import CachedEncoder, FilmedFrames
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.worlds.clip_decoding import ClipShape, UnusableVideo, VideoClip, read_clip
from vggrpo.worlds.video_folder import ClipPicker, SkippedVideo, VideoListing

VIDEOS_NAME = "videos.json"
"""What a run took from a folder of videos, and what it skipped, in its run folder."""


@dataclass(frozen=True, kw_only=True)
class FilmedClips:
    """The clips that were encoded, and the videos that gave none."""

    listing: VideoListing
    clips: tuple[VideoClip, ...]
    skipped: tuple[SkippedVideo, ...]

    def summary(self) -> str:
        """One line: clips, videos, and why others were skipped."""
        used = len({clip.source.name for clip in self.clips})
        line = f"{len(self.clips)} clips of {used} videos ({self.listing.layout}) in {self.listing.folder}"
        if not self.skipped:
            return f"{line}; none skipped"
        first = self.skipped[0]
        return f"{line}; {len(self.skipped)} skipped (the first: {first.name}: {first.reason}), all in {VIDEOS_NAME}"

    def write(self, out: Path) -> None:
        """The list as ``videos.json`` in a run folder."""
        content = {
            "folder": str(self.listing.folder),
            "layout": self.listing.layout,
            "clips": [
                {
                    "video": clip.source.name,
                    "start": round(clip.source.start + clip.start, 6),
                    "caption": clip.source.caption,
                }
                for clip in self.clips
            ],
            "skipped": [{"video": one.name, "reason": one.reason} for one in self.skipped],
        }
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out / VIDEOS_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def encode_filmed_clips(
    listing: VideoListing, encoder: CachedEncoder, *, shape: ClipShape, count: int, seed: int
) -> FilmedClips:
    """Encode ``count`` clips, or as many as there are; those encoded before are not read again.

    Raises:
        UserError: not one clip could be read.
    """
    picker = ClipPicker(listing=listing, shape=shape, seed=seed)
    clips: list[VideoClip] = []
    # A video that fails half-way is rejected, and the next one takes its place.
    candidates = picker.clips()
    for _ in track(range(count), description="encoding videos", console=Console(stderr=True)):
        clip = _next_encoded(candidates, picker=picker, encoder=encoder)
        if clip is None:
            break
        clips.append(clip)
    if not clips:
        first = picker.skipped[0]
        raise UserError(
            f"{listing.folder} gives no clip of {shape.num_frames} frames at {shape.fps:g} a second: all "
            f"{len(picker.skipped)} videos were skipped, the first for: {first.name}: {first.reason}."
        )
    return FilmedClips(listing=listing, clips=tuple(clips), skipped=tuple(picker.skipped))


def _next_encoded(candidates: Iterator[VideoClip], *, picker: ClipPicker, encoder: CachedEncoder) -> VideoClip | None:
    """The next clip that can be read, its latents in the cache; None when there are no more."""
    for clip in candidates:
        try:
            encoder.latents(clip.identity, partial(read_clip, clip))
        except UnusableVideo as error:
            picker.reject(clip, str(error))
            continue
        return clip
    return None


def filmed_frames(filmed: FilmedClips) -> list[FilmedFrames]:
    """The clips' frames, for ``EncodedClips``."""
    return [FilmedFrames(clip=clip) for clip in filmed.clips]
