"""Dense optical flow between neighbouring frames by DIS (Kroeger et al. 2016, OpenCV). Nothing is learnt.

What the flow says is believed where following it there and back again comes home: not where something hides the point,
nor at the border, nor where the frames show different things.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vggrpo.evaluation.epipolar import import_opencv

AGREEMENT = 0.5
"""Largest distance between a pixel and where its flow and the flow back lead, in pixels of 128 a side."""
FINEST_UP_TO = 256
"""Frames up to this many pixels a side are followed at their own resolution, larger ones at half of it."""
REFERENCE_SIDE = 128
"""Tolerances in pixels are those of frames with this shorter side, and grow with the frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowField:
    """Flow of every pixel in pixels, M = N − 1 pairs of frames.

    ``forward[i]`` lives on frame i and leads to frame i + 1, ``backward[i]`` on frame i + 1 and leads back;
    ``agrees[i]`` marks pixels of frame i where both say the same and the way does not leave the frame.
    """

    forward: Float[np.ndarray, "M H W 2"]
    backward: Float[np.ndarray, "M H W 2"]
    agrees: Bool[np.ndarray, "M H W"]

    @property
    def tolerance_scale(self) -> float:
        """By how much the frame is larger than those that tolerances are given for."""
        return min(self.forward.shape[1:3]) / REFERENCE_SIDE


def optical_flow(frames: UInt8[np.ndarray, "N H W 3"]) -> FlowField:
    """The flow of a clip of at least two frames."""
    cv2 = import_opencv()
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    follower = _follower(cv2, side=min(frames.shape[1:3]))
    forward = np.stack([follower.calc(one, other, None) for one, other in pairwise(grey)])
    backward = np.stack([follower.calc(other, one, None) for one, other in pairwise(grey)])
    agrees = np.stack([_agrees(there, back) for there, back in zip(forward, backward, strict=True)])
    return FlowField(forward=forward, backward=backward, agrees=agrees)


def sample_at(
    image: Float[np.ndarray, "H W *channels"], *, columns: Float[np.ndarray, "h w"], rows: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w *channels"]:
    """Linear interpolation at array indices (pixel centres are whole numbers); the border's value beyond it."""
    cv2 = import_opencv()
    return cv2.remap(
        np.ascontiguousarray(image, dtype=np.float32),
        columns.astype(np.float32),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _follower(cv2: Any, *, side: int) -> Any:
    """DIS down to single pixels, because a tenth of a pixel counts. More iterations gain little (measured)."""
    follower = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    follower.setFinestScale(0 if side <= FINEST_UP_TO else 1)
    follower.setVariationalRefinementIterations(10)
    return follower


def _agrees(forward: Float[np.ndarray, "H W 2"], backward: Float[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    height, width = forward.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    columns, rows = columns + forward[..., 0], rows + forward[..., 1]
    inside = (columns >= 0) & (columns <= width - 1) & (rows >= 0) & (rows <= height - 1)
    home = forward + sample_at(backward, columns=columns, rows=rows)
    return inside & (np.linalg.norm(home, axis=-1) < AGREEMENT * min(height, width) / REFERENCE_SIDE)
