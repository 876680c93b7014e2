"""Videos in a folder, and the clips taken from them.

Nothing outside the folder is read: symbolic links are not followed, and paths in tables that leave the folder are
refused. What cannot be used is never dropped in silence: it is counted and listed with its reason.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vggrpo.runtime.errors import UserError
from vggrpo.worlds.clip_decoding import ClipShape, UnusableVideo, VideoClip, VideoSource, seconds_of

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".gif"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
_ORDER, _PLACE = 0x71D0, 0x71D1


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedVideo:
    """A video that gives no clip, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoListing:
    """What a folder holds, read in a layout (see ``video_layouts``)."""

    folder: Path
    layout: str
    sources: tuple[VideoSource, ...]
    skipped: tuple[SkippedVideo, ...] = ()


class ConfinedFolder:
    """A folder whose files are read, and nothing else; ``skipped`` gathers what was refused."""

    def __init__(self, root: Path) -> None:
        """Raises a UserError if there is no such folder."""
        if not root.is_dir():
            raise UserError(f"{root} is no folder: give the folder that holds the videos.")
        self.root = root
        self.skipped: list[SkippedVideo] = []
        self._real = root.resolve()

    def files(self) -> Iterator[Path]:
        """Every file below the folder in the order of names; hidden ones (``.name``) and links are left out."""
        for place, folders, names in os.walk(self.root, followlinks=False):
            here = Path(place)
            for folder in sorted(folders):
                if (here / folder).is_symlink():
                    self.skip(here / folder, "a symbolic link, which is not followed")
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = here / name
                if name.startswith("."):
                    continue
                if not path.is_symlink():
                    yield path
                elif path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                    self.skip(path, "a symbolic link, which is not followed")

    def inside(self, relative: str) -> Path | None:
        """The file of a path in a table; None, and listed, if it is absent, leaves the folder or is a link."""
        path = self.root / relative
        if Path(relative).is_absolute() or not path.resolve().is_relative_to(self._real):
            self.skipped.append(SkippedVideo(name=relative, reason="outside the folder"))
        elif any((self.root / part).is_symlink() for part in (Path(relative), *Path(relative).parents[:-1])):
            self.skipped.append(SkippedVideo(name=relative, reason="a symbolic link, which is not followed"))
        elif not path.is_file():
            self.skipped.append(SkippedVideo(name=relative, reason="not in the folder"))
        else:
            return path
        return None

    def skip(self, path: Path, reason: str) -> None:
        """List what is not used."""
        self.skipped.append(SkippedVideo(name=self.name_of(path), reason=reason))

    def name_of(self, path: Path) -> str:
        """A path as the folder's own, with forward slashes everywhere."""
        return path.relative_to(self.root).as_posix()


@dataclass
class ClipPicker:
    """Which clips are taken, in an order that depends on the seed and on names alone.

    Videos come in a shuffled order, one clip of each; if more are wanted, a second one of each, and so on, as long as
    videos hold further clips that do not overlap. A video is opened when its turn comes, so that a few clips of a huge
    folder cost a few files. ``skipped`` lists the videos that gave none.
    """

    listing: VideoListing
    shape: ClipShape
    seed: int = 0
    skipped: list[SkippedVideo] = field(default_factory=list)
    _usable: dict[str, VideoSource] = field(default_factory=dict, repr=False)
    _seconds: dict[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """What the listing refused counts too."""
        self.skipped = [*self.listing.skipped, *self.skipped]

    def clips(self) -> Iterator[VideoClip]:
        """The clips, as many as there are; call ``reject`` for one that turns out to be unreadable."""
        sources = sorted(self.listing.sources, key=lambda source: source.name)
        for index in np.random.default_rng([self.seed, _ORDER]).permutation(len(sources)):
            source = sources[int(index)]
            if self._probe(source):
                yield self._clip(source, number=0)
        number = 1
        while further := [source for source in self._usable.values() if number < self._room(source)]:
            for source in further:
                # A clip before it in this round may have shown the file to be damaged.
                if source.name in self._usable:
                    yield self._clip(source, number=number)
            number += 1

    def reject(self, clip: VideoClip, reason: str) -> None:
        """The clip's video is unreadable: it gives no further ones."""
        if self._usable.pop(clip.source.name, None) is not None:
            self.skipped.append(SkippedVideo(name=clip.source.name, reason=reason))

    def _probe(self, source: VideoSource) -> bool:
        try:
            seconds = seconds_of(source, fps=self.shape.fps)
        except UnusableVideo as error:
            self.skipped.append(SkippedVideo(name=source.name, reason=str(error)))
            return False
        # Half a frame: headers round.
        if seconds < self.shape.seconds - 0.5 / self.shape.fps:
            reason = f"too short: {seconds:.2f} s, a clip takes {self.shape.seconds:.2f} s"
            self.skipped.append(SkippedVideo(name=source.name, reason=reason))
            return False
        self._usable[source.name] = source
        self._seconds[source.name] = seconds
        return True

    def _room(self, source: VideoSource) -> int:
        """How many clips it holds that do not overlap."""
        return max(int(self._seconds[source.name] / self.shape.seconds + 1e-6), 1)

    def _clip(self, source: VideoSource, *, number: int) -> VideoClip:
        """Clip ``number``: somewhere in its own part of the video, the parts in a shuffled order."""
        parts = self._room(source)
        name = zlib.crc32(source.name.encode())
        part = int(np.random.default_rng([self.seed, name, _PLACE]).permutation(parts)[number])
        length = self._seconds[source.name] / parts
        slack = max(length - self.shape.seconds, 0.0)
        share = float(np.random.default_rng([self.seed, name, number, _PLACE]).random())
        return VideoClip(source=source, start=part * length + share * slack, shape=self.shape)
