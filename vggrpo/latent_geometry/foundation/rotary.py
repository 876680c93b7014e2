"""Rotary position embedding in two dimensions (arXiv 2104.09864, 2403.13298), as VGGT's alternating attention has it.

The first half of a head's channels turns with the row, the second half with the column. Inside a half, channel c and
its partner half a half away turn together by position · base^(-2 c / half).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """Cosine and sine of the angle of every token's channels."""

    cosine: Float[Tensor, "tokens dim"]
    sine: Float[Tensor, "tokens dim"]

    def repeated(self, times: int) -> "Rotation":
        """The same tokens ``times`` over, one frame after another."""
        return Rotation(cosine=self.cosine.repeat(times, 1), sine=self.sine.repeat(times, 1))


def grid_positions(grid: tuple[int, int], *, specials: int, device: torch.device) -> Int[Tensor, "tokens 2"]:
    """(row, column) of ``specials`` tokens at (0, 0) and then of the grid's patches, counted from 1, row by row."""
    rows, columns = (torch.arange(1, count + 1, device=device) for count in grid)
    patches = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([patches.new_zeros(specials, 2), patches])


def rotation_of(positions: Int[Tensor, "tokens 2"], *, dim: int, base: float, dtype: torch.dtype) -> Rotation:
    """The rotation of tokens at ``positions`` for heads of ``dim`` channels (a multiple of 4)."""
    quarter = dim // 4
    frequency = base ** (-torch.arange(quarter, device=positions.device) / quarter)
    angle = positions[:, :, None] * frequency
    # Both partners of a channel pair turn by the same angle.
    angles = torch.cat([angle, angle], dim=-1).flatten(1)
    return Rotation(cosine=angles.cos().to(dtype), sine=angles.sin().to(dtype))


def rotate(heads: Float[Tensor, "*batch tokens dim"], rotation: Rotation) -> Float[Tensor, "*batch tokens dim"]:
    """Turn every channel pair of queries or keys."""
    first, second = heads.unflatten(-1, (2, 2, -1)).unbind(dim=-2)
    turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return heads * rotation.cosine + turned * rotation.sine
