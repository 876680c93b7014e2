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
    """Values along the first axis, one a cell: means over cells, or between centres where cells are less than a pixel.

    The mean is a difference of the integral of the values at two edges, which is exact for any edges.
    """
    cell = edges[1] - edges[0]
    if cell < 1:
        return _between_centres(values, (edges[1:] + edges[:-1]) / 2 - 0.5)
    first, last = int(np.floor(edges[0])), int(np.ceil(edges[-1]))
    used = values[first:last].astype(np.float64)
    integral = np.concatenate([np.zeros_like(used[:1]), np.cumsum(used, axis=0)])
    places = edges - first
    whole = np.minimum(places.astype(int), len(used) - 1)
    part = (places - whole).reshape(-1, *[1] * (used.ndim - 1))
    at_edges = integral[whole] + part * used[whole]
    return np.diff(at_edges, axis=0) / cell


def _between_centres(values: np.ndarray, places: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "cells ..."]:
    """Linear interpolation at ``places``, in units of pixels from the first centre; the border's value beyond it."""
    inside = places.clip(0, len(values) - 1)
    lower = np.minimum(inside.astype(int), max(len(values) - 2, 0))
    upper = np.minimum(lower + 1, len(values) - 1)
    part = (inside - lower).reshape(-1, *[1] * (values.ndim - 1))
    return values[lower] * (1 - part) + values[upper] * part
