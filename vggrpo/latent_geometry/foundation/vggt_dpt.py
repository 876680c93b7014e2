"""Dense prediction heads of VGGT, written from the paper (arXiv 2503.11651), key names and golden tensors.

Patch tokens of four taps are normalised, projected, brought to 4, 2, 1 and 1/2 times the token grid, fused from coarse
to fine, and read out at full resolution. Where a pixel lies is added to the maps after the projections and once more
before the last convolutions, so that the heads know it although they are convolutions.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.latent_geometry.foundation.dpt import FusionBlock, Map, Resized

NORM_EPSILON = 1e-5
POSITION_STRENGTH = 0.1
POSITION_BASE = 100.0
READOUT_CHANNELS = 32


def plane_positions(
    grid: tuple[int, int], *, channels: int, image: tuple[int, int], device: torch.device
) -> Float[Tensor, "channels rows columns"]:
    """Sines and cosines of where the cells of a map of ``grid`` lie on an image of ``image`` (height, width) pixels.

    Coordinates are in units of half the image's diagonal, 0 in the middle. The first half of the channels encodes the
    column, the second the row; of each half, sines come first, at frequencies from 1 down to 1 / ``POSITION_BASE``.
    """
    diagonal = math.hypot(*image)
    across, down = (
        _waves(count, extent=extent / diagonal, channels=channels // 2).to(device, torch.float32)
        for count, extent in zip(reversed(grid), reversed(image), strict=True)
    )
    return torch.cat([across[:, None].expand(-1, grid[0], -1), down[:, :, None].expand(-1, -1, grid[1])])


def _waves(count: int, *, extent: float, channels: int) -> Float[Tensor, "channels count"]:
    """Sines, then cosines, of ``count`` cell centres from -``extent`` to ``extent``; float64."""
    # On the CPU: some devices have no float64, and there is little to compute.
    cpu = torch.device("cpu")
    # The outermost centres lie half a cell inside the border.
    centres = torch.linspace(-1, 1, count, dtype=torch.float64, device=cpu) * extent * (count - 1) / count
    frequency = POSITION_BASE ** -(torch.arange(channels // 2, dtype=torch.float64, device=cpu) / (channels // 2))
    angle = frequency[:, None] * centres
    return torch.cat([angle.sin(), angle.cos()])


def with_positions(x: Map, *, image: tuple[int, int]) -> Map:
    """Add the encoding of where each cell lies."""
    positions = plane_positions((x.shape[2], x.shape[3]), channels=x.shape[1], image=image, device=x.device)
    return x + POSITION_STRENGTH * positions.to(x.dtype)


class VGGTScratch(nn.Module):
    """The fusion pyramid and the read-out, under their official name."""

    refinenet1: FusionBlock
    refinenet2: FusionBlock
    refinenet3: FusionBlock
    refinenet4: FusionBlock

    def __init__(self, channels: Sequence[int], *, features: int, output_dim: int) -> None:
        """Project maps of ``channels`` to ``features``, fuse them, read out ``output_dim`` numbers a pixel."""
        super().__init__()
        for index, dim in enumerate(channels, start=1):
            setattr(self, f"layer{index}_rn", nn.Conv2d(dim, features, kernel_size=3, padding=1, bias=False))
            block = FusionBlock(features, has_skip=index < len(channels), rectified_skip=True)
            setattr(self, f"refinenet{index}", block)
        self.output_conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, READOUT_CHANNELS, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(READOUT_CHANNELS, output_dim, kernel_size=1),
        )

    def forward(self, maps: Sequence[Resized], *, image: tuple[int, int]) -> Resized:
        """Fuse from the coarsest map to the finest and read out at the size of the image."""
        first, second, third, fourth = (
            getattr(self, f"layer{index}_rn")(plane) for index, plane in enumerate(maps, start=1)
        )
        fused = self.refinenet4(fourth, size=third.shape[2:])
        fused = self.refinenet3(fused, third, size=second.shape[2:])
        fused = self.refinenet2(fused, second, size=first.shape[2:])
        fused = self.output_conv1(self.refinenet1(fused, first))
        fused = F.interpolate(fused, size=image, mode="bilinear", align_corners=True)
        return self.output_conv2(with_positions(fused, image=image))


class VGGTDenseHead(nn.Module):
    """Tapped patch tokens to ``output_dim`` raw numbers a pixel; the last one is the confidence."""

    def __init__(self, dim: int, *, channels: Sequence[int], features: int, output_dim: int) -> None:
        """Tokens have ``dim`` channels; the four maps have ``channels``."""
        super().__init__()
        dim1, dim2, _, dim4 = channels
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.projects = nn.ModuleList(nn.Conv2d(dim, out, kernel_size=1) for out in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(dim1, dim1, kernel_size=4, stride=4),
                nn.ConvTranspose2d(dim2, dim2, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(dim4, dim4, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = VGGTScratch(channels, features=features, output_dim=output_dim)

    def forward(
        self, taps: Sequence[Float[Tensor, "batch patches dim"]], *, grid: tuple[int, int], image: tuple[int, int]
    ) -> Resized:
        """``taps`` from early to late, on a token grid of ``grid``; the result has the size of ``image``."""
        maps = []
        for tokens, project, resize in zip(taps, self.projects, self.resize_layers, strict=True):
            plane = self.norm(tokens).transpose(1, 2).unflatten(2, grid)
            maps.append(resize(with_positions(project(plane), image=image)))
        return self.scratch(maps, image=image)
