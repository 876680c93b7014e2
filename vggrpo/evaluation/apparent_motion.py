"""How much moves in a video, camera and objects together: optical flow over half a clip. No geometry model is asked.

Over half a clip, and not from frame to frame: a hand-held camera sways to and fro, so its path is longer the more it
shakes, twice as long at times (measured on the procedural world), although it gets no further. Over half a clip the
sway stays what it is and real motion adds up.
"""

import math

import numpy as np
from jaxtyping import UInt8

from vggrpo.evaluation.epipolar import import_opencv

SIDE = 128
"""Frames are shrunk until their shorter side has this many pixels: motion is coarse, and flow is costly."""


def apparent_motion(frames: UInt8[np.ndarray, "N H W 3"]) -> float:
    """Mean length of the optical flow (Farnebäck) from frame i to frame i + N / 2 over all i and all pixels.

    A fraction of the image's shorter side; NaN for a single frame.
    """
    gap = len(frames) // 2
    if not gap:
        return math.nan
    cv2 = import_opencv()
    scale = min(1.0, SIDE / min(frames.shape[1:3]))
    small = [_grey(frame, scale=scale) for frame in frames]
    lengths = []
    for first, second in zip(small, small[gap:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(
            first, second, None, pyr_scale=0.5, levels=4, winsize=21, iterations=3, poly_n=7, poly_sigma=1.5, flags=0
        )
        lengths.append(np.linalg.norm(flow, axis=-1).mean() / min(first.shape))
    return float(np.mean(lengths))


def _grey(frame: UInt8[np.ndarray, "H W 3"], *, scale: float) -> UInt8[np.ndarray, "h w"]:
    cv2 = import_opencv()
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return grey if scale == 1.0 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
