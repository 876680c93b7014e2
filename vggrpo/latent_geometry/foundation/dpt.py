"""Building blocks of dense prediction heads (DPT, arXiv 2103.13413), from the paper, key names and golden tensors."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Map = Float[Tensor, "batch channels rows columns"]
Resized = Float[Tensor, "batch _ _ _"]


class ResidualConvUnit(nn.Module):
    """x + conv2(relu(conv1(relu(x)))); with ``rectified_skip`` the skip is relu(x) instead of x."""

    def __init__(self, features: int, *, rectified_skip: bool) -> None:
        """``features`` channels in and out."""
        super().__init__()
        self.rectified_skip = rectified_skip
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)

    def forward(self, x: Map) -> Map:
        """Apply the unit."""
        rectified = F.relu(x)
        skip = rectified if self.rectified_skip else x
        return skip + self.conv2(F.relu(self.conv1(rectified)))


class FusionBlock(nn.Module):
    """Add a finer map (if any), refine, and bring to a larger size."""

    def __init__(self, features: int, *, has_skip: bool, rectified_skip: bool) -> None:
        """``has_skip`` is False for the coarsest block, which has no map to add."""
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)
        if has_skip:
            self.resConfUnit1 = ResidualConvUnit(features, rectified_skip=rectified_skip)
        self.resConfUnit2 = ResidualConvUnit(features, rectified_skip=rectified_skip)

    def forward(self, x: Map, skip: Map | None = None, *, size: tuple[int, int] | None = None) -> Resized:
        """Return a map of ``size`` (rows, columns), or of twice the size."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        # A 1x1 convolution and an interpolation whose weights sum to one commute; before the resize it costs a quarter.
        x = self.out_conv(self.resConfUnit2(x))
        target = (2 * x.shape[-2], 2 * x.shape[-1]) if size is None else size
        return F.interpolate(x, size=target, mode="bilinear", align_corners=True)
