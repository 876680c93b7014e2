"""Dense prediction heads of Any4D (DPT, arXiv 2103.13413), written from the paper, key names and golden tensors.

Four token maps (encoder features, two taps, the end) are resampled to 4, 2, 1 and 1/2 times the token grid, fused from
coarse to fine, and read out at full resolution.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from vggrpo.latent_geometry.foundation.dpt import FusionBlock, Map, Resized


class Scratch(nn.Module):
    """The fusion pyramid, under its official name."""

    refinenet1: FusionBlock
    refinenet2: FusionBlock
    refinenet3: FusionBlock
    refinenet4: FusionBlock

    def __init__(self, layer_dims: Sequence[int], *, features: int) -> None:
        """Project maps of ``layer_dims`` channels to ``features`` and fuse them."""
        super().__init__()
        for index, dim in enumerate(layer_dims, start=1):
            setattr(self, f"layer{index}_rn", nn.Conv2d(dim, features, kernel_size=3, padding=1, bias=False))
            block = FusionBlock(features, has_skip=index < len(layer_dims), rectified_skip=False)
            setattr(self, f"refinenet{index}", block)

    def forward(self, maps: Sequence[Resized]) -> Resized:
        """Fuse from the coarsest map to the finest: twice the finest map's size."""
        first, second, third, fourth = (
            getattr(self, f"layer{index}_rn")(plane) for index, plane in enumerate(maps, start=1)
        )
        # The coarsest map was halved with rounding up, so its doubled form can be one row or column too large.
        fused = self.refinenet4(fourth)[:, :, : third.shape[2], : third.shape[3]]
        fused = self.refinenet3(fused, third)
        fused = self.refinenet2(fused, second)
        return self.refinenet1(fused, first)


class DPTFeature(nn.Module):
    """Four token maps to one feature map of 8 times the token grid."""

    def __init__(self, input_dims: Sequence[int], *, layer_dims: Sequence[int], features: int) -> None:
        """``input_dims`` are the channels of the four token maps."""
        super().__init__()
        dim1, dim2, _, dim4 = layer_dims
        resamplers: tuple[list[nn.Module], ...] = (
            [nn.ConvTranspose2d(dim1, dim1, kernel_size=4, stride=4)],
            [nn.ConvTranspose2d(dim2, dim2, kernel_size=2, stride=2)],
            [],
            [nn.Conv2d(dim4, dim4, kernel_size=3, stride=2, padding=1)],
        )
        self.input_process = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Conv2d(source, dim, kernel_size=1), *resampler))
            for source, dim, resampler in zip(input_dims, layer_dims, resamplers, strict=True)
        )
        self.scratch = Scratch(layer_dims, features=features)

    def forward(self, maps: Sequence[Resized]) -> Resized:
        """``maps`` from early to late, all on the token grid."""
        return self.scratch([process(plane) for process, plane in zip(self.input_process, maps, strict=True)])


class DPTRegressor(nn.Module):
    """Feature map to ``output_dim`` channels at full resolution."""

    def __init__(self, features: int, *, output_dim: int) -> None:
        """``features`` channels in, half of them inside."""
        super().__init__()
        hidden = features // 2
        self.conv1 = nn.Conv2d(features, hidden, kernel_size=3, padding=1)
        self.conv2 = nn.Sequential(
            nn.Conv2d(hidden, hidden, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(hidden, output_dim, kernel_size=1)
        )

    def forward(self, x: Map, image_size: tuple[int, int]) -> Resized:
        """Read out at ``image_size`` (height, width)."""
        x = F.interpolate(self.conv1(x), size=image_size, mode="bilinear", align_corners=True)
        hidden = self.conv2[:2](x)
        # Geometry needs more digits than bfloat16 has: what is held in it is at least read out in float32.
        precision = torch.promote_types(hidden.dtype, torch.float32)
        last = cast(nn.Conv2d, self.conv2[2])
        bias = None if last.bias is None else last.bias.to(precision)
        return F.conv2d(hidden.to(precision), last.weight.to(precision), bias)
