"""The run folder: the contract between command line, page, tests and users (design, "Files a run leaves").

Every writer is atomic and, but for the timings in the manifest, the same content gives the same bytes. Every reader
raises a UserError that names the file and what is wrong with it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggrpo.runtime.array_archive import archive_bytes
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes, atomic_write_text
from vggrpo.runtime.geometry_file import read_geometry, write_geometry
from vggrpo.runtime.latents_file import LatentsFile, read_latents, write_latents
from vggrpo.runtime.video_file import VideoFrames, read_video, write_video
from vggrpo.types import ClipGeometry, RewardTerm

__all__ = [
    "ERROR_MAPS",
    "GEOMETRY",
    "LATENTS",
    "MANIFEST",
    "REWARDS",
    "SCENE",
    "VIDEO",
    "LatentsFile",
    "RunFolder",
    "VideoFrames",
    "read_geometry",
    "read_json",
    "read_latents",
    "read_video",
    "write_error_maps",
    "write_geometry",
    "write_json",
    "write_latents",
    "write_manifest",
    "write_rewards",
    "write_video",
]

VIDEO = "video.mp4"
LATENTS = "latents.safetensors"
GEOMETRY = "geometry.npz"
REWARDS = "rewards.json"
ERROR_MAPS = "error_maps.npz"
SCENE = "scene.viser"
MANIFEST = "manifest.json"

_MAX_JSON_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """A finished run. Which files it holds depends on its kind; ``manifest()`` lists them."""

    path: Path

    def file(self, name: str) -> Path:
        """The path of one of the run's files, which may not exist."""
        return self.path / name

    def manifest(self) -> dict[str, object]:
        """What was asked for, with which versions, and how long it took."""
        return read_json(self.file(MANIFEST))

    def rewards(self) -> dict[str, object]:
        """The rewards in the contract's form."""
        return read_json(self.file(REWARDS))

    def geometry(self) -> ClipGeometry:
        """Cameras, depth, points and scene flow."""
        return read_geometry(self.file(GEOMETRY))

    def latents(self) -> LatentsFile:
        """The latents of a generated run."""
        return read_latents(self.file(LATENTS))


def write_rewards(path: Path, report: Mapping[str, object]) -> None:
    """Write ``rewards.json``; a NaN becomes null."""
    write_json(path, report)


def write_manifest(path: Path, manifest: Mapping[str, object]) -> None:
    """Write ``manifest.json``."""
    write_json(path, manifest)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write one JSON object that every strict parser reads; a NaN becomes null."""
    atomic_write_text(path, _to_json(content))


def write_error_maps(path: Path, terms: Mapping[str, RewardTerm], *, index: int = 0) -> None:
    """Write the per-pixel error maps of video ``index``, float32 [N, H, W] by reward name; NaN = not measured."""
    maps = {
        name: term.error_map[index].detach().cpu().float().numpy()
        for name, term in terms.items()
        if term.error_map is not None
    }
    atomic_write_bytes(path, archive_bytes(maps))


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object. Raises a UserError naming the file."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise UserError(f"{path} is too large to be one of a run's files.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {path.parent} is not a finished run folder.") from error
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold one JSON object.")
    return content


def _to_json(content: Mapping[str, object]) -> str:
    """Indented JSON in the given order, that every strict parser reads."""
    return json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(value: object) -> object:
    """The same content with None for numbers that JSON has no words for."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
