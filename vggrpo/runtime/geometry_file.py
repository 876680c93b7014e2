"""``geometry.npz``: cameras, depth, points and scene flow of one clip."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from vggrpo.runtime.array_archive import archive_bytes, read_archive
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes
from vggrpo.types import ClipGeometry

MAX_FRAMES = 1024
MAX_PIXELS = 128_000_000
"""Of all frames together."""

# Trailing axes of each array behind its frames; "H" and "W" are the grid of `depth`.
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "camera_from_world": (4, 4),
    "intrinsics": (3, 3),
    "depth": ("H", "W"),
    "points": ("H", "W", 3),
    "scene_flow": ("H", "W", 3),
    "confidence": ("H", "W"),
    "valid": ("H", "W"),
}
_PER_PIXEL = ("depth", "points", "scene_flow", "confidence")
_ROTATION_TOLERANCE = 1e-2


def write_geometry(path: Path, geometry: ClipGeometry) -> None:
    """Write the seven arrays of the contract: float32, ``valid`` bool; equal geometry gives equal bytes.

    A pixel with a number that is not finite is written as zeros and not ``valid``. Raises ValueError for cameras that
    are not finite: such a geometry says nothing.
    """
    arrays = {field.name: np.asarray(getattr(geometry, field.name)) for field in fields(geometry)}
    if not all(np.isfinite(arrays[name]).all() for name in ("camera_from_world", "intrinsics")):
        raise ValueError("a camera holds a number that is not finite")
    finite = np.ones(arrays["valid"].shape, dtype=bool)
    for name in _PER_PIXEL:
        finite &= np.isfinite(arrays[name]).reshape(*finite.shape, -1).all(axis=-1)
    for name in _PER_PIXEL:
        keep = finite if arrays[name].ndim == finite.ndim else finite[..., None]
        arrays[name] = np.where(keep, arrays[name], 0)
    arrays["valid"] = arrays["valid"] & finite
    typed = {name: array.astype(bool if name == "valid" else np.float32) for name, array in arrays.items()}
    atomic_write_bytes(path, archive_bytes(typed))


def read_geometry(path: Path) -> ClipGeometry:
    """Read and check a ``geometry.npz``. Raises a UserError that names the array, and the shape it should have.

    Checked: every array is there, shapes agree, numbers are finite, rotations are rotations, focal lengths and the
    depth of valid pixels are positive.
    """
    arrays = read_archive(path, names=array_shapes())
    _check_shapes(arrays, path)
    if arrays["valid"].dtype != bool:
        raise UserError(f"{path}: 'valid' holds {arrays['valid'].dtype}; it must be bool {_shape_in_words('valid')}.")
    for name, array in arrays.items():
        if name != "valid":
            _check_finite(name, array, path)
    _check_cameras(arrays, path)
    if (arrays["depth"][arrays["valid"]] <= 0).any():
        raise UserError(f"{path}: 'depth' must be positive wherever 'valid' is true.")
    return ClipGeometry(
        **{name: array.astype(bool if name == "valid" else np.float32) for name, array in arrays.items()}
    )


def array_shapes() -> dict[str, str]:
    """The arrays of the contract, each with its shape in words."""
    return {name: _shape_in_words(name) for name in _SHAPES}


def _shape_in_words(name: str, sizes: dict[str, int] | None = None) -> str:
    """[N, H, W, 3], with numbers where they are known."""
    axes = ("N", *_SHAPES[name])
    return f"[{', '.join(str((sizes or {}).get(str(axis), axis)) for axis in axes)}]"


def _check_shapes(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Every array on the grid of ``depth``, and that one of a sane size."""
    depth = arrays["depth"]
    if depth.ndim != 3 or 0 in depth.shape:
        raise UserError(f"{path}: 'depth' has shape {list(depth.shape)}; it must be {_shape_in_words('depth')}.")
    if depth.shape[0] > MAX_FRAMES or depth.size > MAX_PIXELS:
        raise UserError(f"{path}: {list(depth.shape)} is too large; at most {MAX_FRAMES} frames are read.")
    sizes = dict(zip("NHW", depth.shape, strict=True))
    for name, tail in _SHAPES.items():
        expected = tuple(sizes.get(str(axis), axis) for axis in ("N", *tail))
        if arrays[name].shape != expected:
            raise UserError(
                f"{path}: '{name}' has shape {list(arrays[name].shape)}; it must be {_shape_in_words(name, sizes)}, "
                "on the grid of 'depth'."
            )


def _check_finite(name: str, array: np.ndarray, path: Path) -> None:
    """No NaN, no infinity, nothing that float32 cannot hold."""
    bad = ~(np.abs(array) <= np.finfo(np.float32).max)
    if bad.any():
        where = np.unravel_index(int(bad.argmax()), bad.shape)
        raise UserError(
            f"{path}: '{name}' of shape {list(array.shape)} holds NaN or infinity at {[int(i) for i in where]}; "
            "write finite numbers and mark pixels without geometry in 'valid'."
        )


def _check_cameras(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Rigid camera poses and pinhole intrinsics."""
    camera = arrays["camera_from_world"].astype(np.float64)
    rotation = camera[:, :3, :3]
    drift = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    is_rigid = (drift < _ROTATION_TOLERANCE) & (np.linalg.det(rotation) > 0)
    is_rigid &= np.abs(camera[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(axis=1) < _ROTATION_TOLERANCE
    if not is_rigid.all():
        frame = int((~is_rigid).argmax())
        raise UserError(f"{path}: 'camera_from_world' is not a rotation and a translation in frame {frame}.")
    focal = arrays["intrinsics"][:, [0, 1], [0, 1]]
    if (focal <= 0).any():
        raise UserError(f"{path}: 'intrinsics' must have positive focal lengths, in pixels, in [0, 0] and [1, 1].")
