"""The lowest spatial frequencies of latents: where a camera's move is, and only a small part of a step's noise.

A step's noise has D = C T h w independent directions. What a reward of camera and scene answers to are the few that
change a video at large; the others only add noise to the policy gradient. The orthonormal discrete cosine transform
(DCT-II) tells them apart: with orthonormal rows U of the lowest frequencies, x′ ~ N(μ, s² I) has U x′ ~ N(U μ, s² I),
a density of fewer dimensions that is exact.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def low_frequencies(latents: Float[Tensor, "B C T h w"], cells: int | None) -> Float[Tensor, "B C T a b"]:
    """Coefficients of the ``cells`` lowest frequencies along height and along width; the latents themselves if None.

    Squares keep their sum when all frequencies are kept. ``cells`` beyond the height or width keeps all of it.
    """
    if cells is None:
        return latents
    rows, columns = (
        _cosines(size).to(latents.device, latents.dtype)[:cells] for size in (latents.shape[-2], latents.shape[-1])
    )
    return torch.einsum("ah,bcthw,dw->bctad", rows, latents, columns)


@lru_cache(maxsize=8)
def _cosines(size: int) -> Float[Tensor, "f n"]:
    """The orthonormal DCT-II: row f is √(2/n) cos(π f (2 i + 1) / 2 n), row 0 by 1/√2 less."""
    frequencies = torch.arange(size, dtype=torch.float64)[:, None]
    places = torch.arange(size, dtype=torch.float64)[None] + 0.5
    matrix = math.sqrt(2.0 / size) * torch.cos(math.pi * frequencies * places / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix
