"""Centre crop and resize of one image, by area: every source pixel counts with the share of it that a target covers.

The crop's edges may lie between pixels, so that nothing is rounded and the crop is centred to the bit. An image that
has to grow is interpolated linearly between pixel centres instead: an area smaller than a pixel has one colour.
"""

import numpy as np
from jaxtyping import Float, UInt8


def crop_and_resize(
    image: UInt8[np.ndarray, "rows columns 3"], *, height: int, width: int, pixel_aspect: float = 1.0
) -> UInt8[np.ndarray, "height width 3"]:
    """The largest centred part of the target's shape, resized to it.

    ``pixel_aspect`` is a source pixel's width in units of its height (broadcast video is seldom square).
    """
    rows, columns = image.shape[:2]
    # Source rows that become one target row; columns follow, so that nothing is stretched.
    scale = min(rows / height, columns * pixel_aspect / width)
    row_edges = _edges(rows, extent=scale * height, count=height)
    column_edges = _edges(columns, extent=scale * width / pixel_aspect, count=width)
    resized = _resample(_resample(image, row_edges).swapaxes(0, 1), column_edges).swapaxes(0, 1)
    return np.rint(resized).clip(0, 255).astype(np.uint8)


def _edges(size: int, *, extent: float, count: int) -> Float[np.ndarray, " edges"]:
    """Edges of ``count`` equal cells over the middle ``extent`` of ``size`` pixels."""
    first = (size - extent) / 2
    return (first + extent * np.arange(count + 1) / count).clip(0, size)


def _resample(values: np.ndarray, edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, "cells ..."]:
    """Values along the first axis, one a cell: its mean, or between pixel centres where a cell is less than a pixel."""
    left, right = edges[:-1], edges[1:]
    cell = edges[1] - edges[0]
    if cell < 1:
        return _between_centres(values, (left + right) / 2 - 0.5)
    first = np.floor(left).astype(int)
    total = np.zeros((len(left), *values.shape[1:]), dtype=np.float32)
    # The first pixel under every cell, then the second, …: few rounds of whole rows.
    for offset in range(int((np.ceil(right) - first).max())):
        pixel = first + offset
        covered = (np.minimum(right, pixel + 1) - np.maximum(left, pixel)).clip(0) / cell
        total += values[np.minimum(pixel, len(values) - 1)] * _column(covered, values)
    return total


def _column(weights: Float[np.ndarray, " cells"], values: np.ndarray) -> Float[np.ndarray, "cells ..."]:
    """Weights of the first axis, to multiply values of any number of axes."""
    return weights.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))


def _between_centres(values: np.ndarray, places: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "cells ..."]:
    """Linear interpolation at ``places``, in units of pixels from the first centre; the border's value beyond it."""
    inside = places.clip(0, len(values) - 1)
    lower = np.minimum(inside.astype(int), max(len(values) - 2, 0))
    upper = np.minimum(lower + 1, len(values) - 1)
    part = _column(inside - lower, values)
    return values[lower] * (1 - part) + values[upper] * part
