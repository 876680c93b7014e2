"""Film strips: every frame of a map side by side in one JPEG, which serves the strip and the video pane alike."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELL_SIDE = 160
"""Longest side of a frame in a strip, in pixels."""

_QUALITY = 90


def write_strip(path: Path, frames: NDArray[np.uint8]) -> None:
    """Frames [N, H, W, 3] side by side, each at most ``CELL_SIDE`` on its longer side."""
    height, width = frames.shape[1:3]
    factor = min(1.0, CELL_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    cells = [frame if factor == 1.0 else np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]
    Image.fromarray(np.concatenate(cells, axis=1)).save(path, quality=_QUALITY, subsampling=0)
