"""Sizes of the Any4D architecture: the released model's, and the embedded one's."""

from dataclasses import dataclass
from typing import Literal

FlowGrid = Literal["reference", "self"]


@dataclass(frozen=True, kw_only=True)
class Any4DConfig:
    """Every size of an Any4D model; the defaults are the released checkpoint's.

    ``flow_grid`` says where scene flow lives. ``reference`` (released): entry i is on view 0's pixels, the displacement
    from view 0's time to view i's. ``self`` (embedded): entry i is on view i's own pixels, towards the next frame.
    ``max_views`` is the number of rows of the sinusoidal view table: 1 marks the reference view only (released), which
    leaves the other views without an order; flow towards "the next frame" needs one row for every frame.
    """

    patch_size: int = 14
    position_grid: int = 37
    encoder_dim: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    sharing_dim: int = 768
    sharing_depth: int = 24
    sharing_heads: int = 12
    sharing_taps: tuple[int, int] = (11, 17)
    max_views: int = 1
    dpt_features: int = 256
    dpt_layer_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    pose_hidden: int = 784
    pose_blocks: int = 2
    scale_hidden: int = 196
    flow_grid: FlowGrid = "reference"

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        if self.encoder_dim % self.encoder_heads or self.sharing_dim % self.sharing_heads:
            raise ValueError("encoder_dim and sharing_dim must be multiples of their number of heads")
        if not all(0 <= tap < self.sharing_depth for tap in self.sharing_taps):
            raise ValueError(f"sharing_taps {self.sharing_taps} must be layers 0 … {self.sharing_depth - 1}")
        if self.flow_grid == "self" and self.max_views < 2:
            raise ValueError('flow_grid "self" needs max_views >= 2: without view rows frames have no order')


TINY = Any4DConfig(
    patch_size=16,
    position_grid=8,
    encoder_dim=192,
    encoder_depth=4,
    encoder_heads=3,
    sharing_dim=192,
    sharing_depth=8,
    sharing_heads=3,
    sharing_taps=(3, 5),
    max_views=32,
    dpt_features=32,
    dpt_layer_dims=(32, 48, 64, 96),
    pose_hidden=192,
    flow_grid="self",
)
"""The embedded model: 128 × 128 pixels are 8 × 8 tokens, the grid of 8× latents behind a stride of 2."""

JUDGE = Any4DConfig(
    patch_size=16,
    position_grid=8,
    encoder_dim=128,
    encoder_depth=3,
    encoder_heads=2,
    sharing_dim=112,
    sharing_depth=6,
    sharing_heads=2,
    sharing_taps=(1, 3),
    max_views=32,
    dpt_features=24,
    dpt_layer_dims=(16, 24, 32, 48),
    pose_hidden=64,
    scale_hidden=32,
    flow_grid="self",
)
"""Narrower, shallower and with fewer heads: what judges the embedded model must not share its Φ's mistakes."""

DEBUG = Any4DConfig(
    patch_size=16,
    position_grid=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    sharing_dim=32,
    sharing_depth=2,
    sharing_heads=2,
    sharing_taps=(0, 1),
    max_views=32,
    dpt_features=8,
    dpt_layer_dims=(8, 8, 8, 8),
    pose_hidden=16,
    scale_hidden=16,
    flow_grid="self",
)
"""The same classes at the smallest useful size, for tests."""
