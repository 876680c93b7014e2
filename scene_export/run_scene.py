"""The 4D scene of a run, read from its folder into plain arrays."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_export.video_frames import read_frames, resize_frames

GEOMETRY_FILE = "geometry.npz"
VIDEO_FILE = "video.mp4"
REWARDS_FILE = "rewards.json"
MANIFEST_FILE = "manifest.json"
ERROR_MAPS_FILE = "error_maps.npz"

ERROR_MAP = "geometry_consistency"
"""Name of the reprojection error's array in ``error_maps.npz``."""

DEFAULT_FPS = 8.0

STATIC_THRESHOLD = 0.01
"""A point stands still while its flow stays under this share of the scene's scale, as in the rewards."""

_SHAPES: dict[str, tuple[int | str, ...]] = {
    "camera_from_world": (4, 4),
    "intrinsics": (3, 3),
    "depth": ("H", "W"),
    "points": ("H", "W", 3),
    "scene_flow": ("H", "W", 3),
    "confidence": ("H", "W"),
    "valid": ("H", "W"),
}


class SceneReadError(ValueError):
    """A run folder that holds no usable geometry; the message names the file or the array."""


@dataclass(frozen=True, kw_only=True)
class RunScene:
    """Cameras, points and flow of one clip of N frames on an H×W grid; OpenCV axes, the world is camera 0.

    ``rgb`` is None for geometry without a video, ``error`` where no error map was written (NaN = not measured).
    """

    camera_from_world: NDArray[np.float32]  # [N, 4, 4]
    intrinsics: NDArray[np.float32]  # [N, 3, 3] in pixels of the H×W grid
    depth: NDArray[np.float32]  # [N, H, W]
    points: NDArray[np.float32]  # [N, H, W, 3] world
    scene_flow: NDArray[np.float32]  # [N, H, W, 3] world displacement to the next frame
    confidence: NDArray[np.float32]  # [N, H, W]
    valid: NDArray[np.bool_]  # [N, H, W]
    rgb: NDArray[np.uint8] | None  # [N, H, W, 3]
    error: NDArray[np.float32] | None  # [N, H, W]
    fps: float

    @property
    def num_frames(self) -> int:
        """N."""
        return self.depth.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the geometry's grid."""
        return self.depth.shape[1], self.depth.shape[2]

    @cached_property
    def world_from_camera(self) -> NDArray[np.float64]:
        """[N, 4, 4], the rigid inverse."""
        rotation = self.camera_from_world[:, :3, :3].astype(np.float64)
        translation = self.camera_from_world[:, :3, 3].astype(np.float64)
        inverse = np.tile(np.eye(4), (self.num_frames, 1, 1))
        inverse[:, :3, :3] = rotation.transpose(0, 2, 1)
        inverse[:, :3, 3] = -np.einsum("nji,nj->ni", rotation, translation)
        return inverse

    @cached_property
    def scale(self) -> float:
        """Geometric mean of the valid depths, the rewards' unit of length (1 where nothing is valid)."""
        usable = self.depth[self.valid & (self.depth > 0) & np.isfinite(self.depth)]
        return float(np.exp(np.log(usable.astype(np.float64)).mean())) if usable.size else 1.0

    @cached_property
    def is_moving(self) -> NDArray[np.bool_]:
        """[N, H, W], points whose flow exceeds ``STATIC_THRESHOLD`` of the scene's scale."""
        speed = np.linalg.norm(self.scene_flow, axis=-1)
        return self.valid & (speed >= STATIC_THRESHOLD * self.scale)


def read_scene(folder: Path) -> RunScene:
    """Read a run folder. Raises ``SceneReadError`` where the geometry is missing or does not fit together."""
    arrays = _read_geometry(folder / GEOMETRY_FILE)
    num_frames, height, width = arrays["depth"].shape
    rgb, fps = None, DEFAULT_FPS
    if (folder / VIDEO_FILE).exists():
        frames = read_frames(folder / VIDEO_FILE)
        fps = frames.fps
        if len(frames.rgb) >= num_frames:
            rgb = resize_frames(frames.rgb[:num_frames], height=height, width=width)
    elif (folder / MANIFEST_FILE).exists():
        fps = float(json.loads((folder / MANIFEST_FILE).read_text()).get("fps") or DEFAULT_FPS)
    return RunScene(**arrays, rgb=rgb, error=_read_error(folder / ERROR_MAPS_FILE, arrays["depth"].shape), fps=fps)


def _read_geometry(path: Path) -> dict[str, NDArray]:
    """The arrays of ``geometry.npz``, checked against each other."""
    if not path.exists():
        raise SceneReadError(f"{path} is missing: the run holds no geometry to show")
    with np.load(path, allow_pickle=False) as archive:
        missing = sorted(set(_SHAPES) - set(archive.files))
        if missing:
            raise SceneReadError(f"{path} lacks the array {missing[0]}")
        arrays = {name: archive[name] for name in _SHAPES}
    depth = arrays["depth"]
    if depth.ndim != 3:
        raise SceneReadError(f"{path}: depth must be [N, H, W], got {list(depth.shape)}")
    sides = {"H": depth.shape[1], "W": depth.shape[2]}
    for name, tail in _SHAPES.items():
        expected = (depth.shape[0], *(sides[side] if isinstance(side, str) else side for side in tail))
        if arrays[name].shape != expected:
            raise SceneReadError(f"{path}: {name} must be {list(expected)}, got {list(arrays[name].shape)}")
    valid = arrays.pop("valid").astype(bool)
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"valid": valid}


def _read_error(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The reprojection error's map, or None where the run was written without one."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        if ERROR_MAP not in archive.files or archive[ERROR_MAP].shape != shape:
            return None
        return archive[ERROR_MAP].astype(np.float32)
