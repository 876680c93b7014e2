"""Sizes of the VGGT architecture: the released model's, and the smallest useful one."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class VGGTConfig:
    """Every size of a VGGT model; the defaults are those of the released VGGT-1B.

    ``pairs`` counts the pairs (frame block, global block) of the alternating attention, whose width is the encoder's;
    ``taps`` are the four pairs that the dense heads read.
    """

    patch_size: int = 14
    position_grid: int = 37
    registers: int = 4
    encoder_dim: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    pairs: int = 24
    sharing_heads: int = 16
    taps: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_depth: int = 4
    camera_heads: int = 16
    camera_iterations: int = 4
    dpt_features: int = 256
    dpt_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        if self.encoder_dim % self.encoder_heads or 2 * self.encoder_dim % self.camera_heads:
            raise ValueError("encoder_dim must be a multiple of its number of heads, and so must the camera head's")
        if self.encoder_dim % (4 * self.sharing_heads):
            raise ValueError("rotary positions need heads of a multiple of 4 channels: change sharing_heads")
        if not all(0 <= tap < self.pairs for tap in self.taps):
            raise ValueError(f"taps {self.taps} must be pairs 0 … {self.pairs - 1}")


VGGT_DEBUG = VGGTConfig(
    patch_size=16,
    position_grid=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    pairs=4,
    sharing_heads=2,
    taps=(0, 1, 2, 3),
    camera_depth=1,
    camera_heads=2,
    dpt_features=8,
    dpt_channels=(8, 8, 8, 8),
)
"""The same classes at the smallest useful size, for tests."""
