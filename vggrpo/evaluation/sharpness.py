"""Pixel sharpness: a guard. A blurred video is easy to keep consistent, and no better for it."""

import numpy as np
from jaxtyping import Float, UInt8

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""


def sharpness(frames: UInt8[np.ndarray, "N H W 3"]) -> Float[np.ndarray, " N"]:
    """The standard deviation of the Laplacian of luma, of each frame, on the scale 0 to 255 (Pech-Pacheco 2000).

    Blur lowers it, brightness does not change it, and contrast and noise raise it: read it beside the picture.
    """
    luma = frames.astype(np.float64) @ _LUMA
    middle = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (around - 4.0 * middle).std(axis=(1, 2))
