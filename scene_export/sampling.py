"""Which points of a frame are shown: an even, repeatable subset without the flyers at depth edges."""

import numpy as np
from numpy.typing import NDArray

from scene_export.run_scene import RunScene

EDGE_JUMP = 0.06
"""A pixel whose depth differs from a neighbour's by more than this share lies on an edge and is not shown: there a
network's depth runs smoothly from one surface to the other, through places where nothing is."""

FAR_QUANTILE = 0.97
"""Points beyond this quantile of depth are not shown: a floor that runs to the horizon would dwarf the objects."""


def shown_pixels(scene: RunScene) -> NDArray[np.bool_]:
    """[N, H, W], the valid pixels worth showing in 3D; all valid ones where nothing else would be left."""
    depth = np.where(scene.valid, scene.depth, np.nan)
    if not scene.valid.any():
        return scene.valid
    jump = np.zeros_like(depth)
    for axis in (1, 2):
        step = np.abs(np.diff(depth, axis=axis))
        padding = [(0, 0)] * 3
        for side in ((1, 0), (0, 1)):
            padding[axis] = side
            jump = np.fmax(jump, np.pad(step, padding, constant_values=0.0))
    far = np.nanquantile(depth, FAR_QUANTILE)
    # A slanted floor also jumps, more so the farther it is, so the tolerance grows with depth over scale.
    tolerance = EDGE_JUMP * depth * np.maximum(1.0, depth / scene.scale)
    shown = scene.valid & (jump <= tolerance) & (depth <= far)
    return shown if shown.any() else scene.valid


def even_subset(shown: NDArray[np.bool_], *, limit: int) -> NDArray[np.intp]:
    """Flat indices of at most ``limit`` shown pixels of one frame [H, W], spread evenly, the same for every run.

    Pixels are ranked by interleaved gradient noise (Jimenez 2014): its low values are spread like blue noise, so no
    grid lines appear in the cloud as they do with a stride.
    """
    candidates = np.flatnonzero(shown)
    if len(candidates) <= limit:
        return candidates
    rows, columns = np.divmod(candidates, shown.shape[1])
    noise = (52.9829189 * ((0.06711056 * columns + 0.00583715 * rows) % 1.0)) % 1.0
    return np.sort(candidates[np.argsort(noise, kind="stable")[:limit]])
