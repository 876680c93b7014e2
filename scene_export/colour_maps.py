"""Colour maps for depth, error and motion: readable on white and on near-black alike."""

import numpy as np
from numpy.typing import NDArray

NOT_MEASURED = (142, 148, 158)
"""Grey of pixels and points that a map says nothing about."""

MOVING = (255, 90, 54)
"""The page's accent, for points that move."""

_VIRIDIS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
_ERROR = ("3b7ea1", "7fb3a6", "e9c46a", "ee8a3c", "e4572e", "a4161a")

ERROR_FULL_SCALE = 0.10
"""Relative depth error that is drawn in the last colour: ten per cent of the scene's scale."""


def _gradient(stops: tuple[str, ...], share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Piecewise linear colours [..., 3] of shares in [0, 1]; NaN becomes ``NOT_MEASURED``."""
    colours = np.array([tuple(bytes.fromhex(stop)) for stop in stops], dtype=np.float64)
    measured = np.isfinite(share)
    position = np.where(measured, np.clip(share, 0.0, 1.0), 0.0)
    grid = np.linspace(0.0, 1.0, len(stops))
    channels = [np.interp(position, grid, colours[:, channel]) for channel in range(3)]
    painted = np.stack(channels, axis=-1)
    painted[~measured] = NOT_MEASURED
    return np.rint(painted).astype(np.uint8)


def colour_depth(depth: NDArray[np.floating], *, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Near is yellow, far is violet, by log depth between the 2nd and 98th percentile of the whole clip."""
    usable = valid & (depth > 0) & np.isfinite(depth)
    if not usable.any():
        return _gradient(_VIRIDIS, np.full(depth.shape, np.nan))
    log_depth = np.log(np.where(usable, depth, 1.0))
    near, far = np.percentile(log_depth[usable], [2.0, 98.0])
    share = (far - log_depth) / max(far - near, 1e-6)
    return _gradient(_VIRIDIS, np.where(usable, share, np.nan))


def colour_error(error: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Relative depth error (share of the scene's scale): blue is none, red is ``ERROR_FULL_SCALE`` or more."""
    return _gradient(_ERROR, error / ERROR_FULL_SCALE)


def colour_motion(rgb: NDArray[np.uint8] | None, *, is_moving: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Moving points in the accent colour, standing ones in the grey of their brightness."""
    # Rec. 709 luma, lifted off black and white so that both backgrounds show it.
    luma = np.full(is_moving.shape, 157.0) if rgb is None else rgb @ np.array([0.2126, 0.7152, 0.0722])
    grey = 40.0 + 0.7 * luma
    painted = np.repeat(grey[..., None], 3, axis=-1)
    painted[is_moving] = 0.8 * np.array(MOVING) + 0.2 * painted[is_moving]
    return np.rint(painted).astype(np.uint8)


def colour_flow(flow: NDArray[np.floating], *, full_scale: float) -> NDArray[np.uint8]:
    """2D flow [..., 2] on the usual wheel: hue is the direction, saturation the length against ``full_scale``."""
    length = np.linalg.norm(flow, axis=-1) / max(full_scale, 1e-9)
    hue = (np.arctan2(flow[..., 1], flow[..., 0]) / (2.0 * np.pi)) % 1.0
    wheel = np.abs((hue[..., None] * 6.0 + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0
    pure = np.clip(wheel, 0.0, 1.0)
    saturation = np.clip(length, 0.0, 1.0)[..., None]
    still = np.array(NOT_MEASURED) / 255.0
    return np.rint(255.0 * (still + saturation * (pure - still))).astype(np.uint8)
