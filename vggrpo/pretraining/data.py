"""World clips on disk: rendered once, then read by every pretraining command.

The cache is a folder of safetensors files, one a seed, outside the repository. Deleting it loses nothing but time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vggrpo.types import ClipGeometry, WorldClip
from vggrpo.worlds import FIRST_TRAINING_SEED, make_clip
from vggrpo.worlds.rendering import SKY_ID

CACHE_VERSION = "4"
"""Raised when the world changes, so that old clips are never mixed with new ones."""


def default_cache() -> Path:
    """``$VGGRPO_CACHE`` or ``~/.cache/vggrpo``."""
    return Path(os.environ.get("VGGRPO_CACHE", "~/.cache/vggrpo")).expanduser()


@dataclass(frozen=True, kw_only=True)
class ClipCache:
    """Clips of the procedural world by seed, rendered on first use."""

    folder: Path
    num_frames: int = 17
    size: int = 128

    def clip(self, seed: int, *, frames: Int[np.ndarray, " n"] | None = None) -> WorldClip:
        """The clip of a seed, from disk or rendered now; with ``frames``, only those, in that order."""
        path = self._path(seed)
        try:
            return _read(path, frames=frames)
        except (FileNotFoundError, SafetensorError):
            clip = make_clip(seed, num_frames=self.num_frames, height=self.size, width=self.size)
            _write(path, clip)
            return clip if frames is None else select_frames(clip, frames)

    def rgb(self, seed: int) -> UInt8[np.ndarray, "N H W 3"]:
        """Only the frames of a seed's clip: a tenth of the reading."""
        try:
            with safe_open(self._path(seed), framework="numpy") as file:
                return file.get_tensor("rgb")
        except (FileNotFoundError, SafetensorError):
            return self.clip(seed).rgb

    def frames(self, seed: int, *, start: int, count: int) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames ``start`` to ``start + count`` of a seed's clip, reading no others."""
        try:
            with safe_open(self._path(seed), framework="numpy") as file:
                return file.get_slice("rgb")[start : start + count]
        except (FileNotFoundError, SafetensorError):
            return self.clip(seed).rgb[start : start + count]

    def caption(self, seed: int) -> str:
        """Only the caption of a seed's clip."""
        try:
            with safe_open(self._path(seed), framework="numpy") as file:
                return file.metadata()["caption"]
        except (FileNotFoundError, SafetensorError):
            return self.clip(seed).caption

    def fill(self, count: int, *, first_seed: int = FIRST_TRAINING_SEED) -> Iterator[int]:
        """Render the seeds that are not on disk yet; yields each seed when its clip is there."""
        for seed in range(first_seed, first_seed + count):
            if not self._path(seed).exists():
                self.clip(seed)
            yield seed

    def _path(self, seed: int) -> Path:
        return self.folder / f"clips-v{CACHE_VERSION}-{self.num_frames}x{self.size}" / f"{seed}.safetensors"


def select_frames(clip: WorldClip, frames: Int[np.ndarray, " n"]) -> WorldClip:
    """Some frames of a clip, in the given order; the world frame stays that of the whole clip."""
    geometry = {field.name: getattr(clip.geometry, field.name)[frames] for field in fields(ClipGeometry)}
    return WorldClip(
        rgb=clip.rgb[frames],
        caption=clip.caption,
        geometry=ClipGeometry(**geometry),
        object_id=clip.object_id[frames],
        moving=clip.moving[frames],
    )


def _write(path: Path, clip: WorldClip) -> None:
    """Write atomically: another process may render the same seed at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "rgb": clip.rgb,
        "object_id": clip.object_id,
        "moving": clip.moving.astype(np.uint8),
        "depth": clip.geometry.depth,
        "points": clip.geometry.points,
        "scene_flow": clip.geometry.scene_flow.astype(np.float16),
        "camera_from_world": clip.geometry.camera_from_world,
        "intrinsics": clip.geometry.intrinsics,
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(arrays, temporary, metadata={"caption": clip.caption})
    temporary.replace(path)


def _read(path: Path, *, frames: Int[np.ndarray, " n"] | None) -> WorldClip:
    """Read a cached clip, or some of its frames and no others. Raises FileNotFoundError or SafetensorError."""
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        if frames is None:
            arrays = {name: file.get_tensor(name) for name in names}
        else:
            arrays = {name: np.stack([file.get_slice(name)[int(frame)] for frame in frames]) for name in names}
        caption = file.metadata()["caption"]
    object_id = arrays["object_id"]
    geometry = ClipGeometry(
        camera_from_world=arrays["camera_from_world"],
        intrinsics=arrays["intrinsics"],
        depth=arrays["depth"],
        points=arrays["points"],
        scene_flow=arrays["scene_flow"].astype(np.float32),
        confidence=np.ones_like(arrays["depth"]),
        valid=object_id != SKY_ID,
    )
    return WorldClip(
        rgb=arrays["rgb"],
        caption=caption,
        geometry=geometry,
        object_id=object_id,
        moving=arrays["moving"].astype(bool),
    )
