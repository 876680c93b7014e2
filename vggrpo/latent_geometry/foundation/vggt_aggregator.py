"""Alternating attention of VGGT (arXiv 2503.11651): inside each frame, then over all frames, in pairs.

Written from the paper, key names and golden tensors. A camera token and four registers stand before each frame's
patches; frame 0 has its own, all others share theirs, which is how the model knows whose camera is the world.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.rotary import grid_positions, rotation_of
from vggrpo.latent_geometry.foundation.vit import Block, BlockStyle, Recomputing, VisionTransformer

ALTERNATING_BLOCK = BlockStyle(layer_scale=0.01, norm_epsilon=1e-5, normalised_queries=True)
ROTARY_BASE = 100.0


@dataclass(frozen=True, kw_only=True)
class AggregatedTokens:
    """What the heads read: patch tokens at the four taps, camera tokens after the last pair. Frame half first."""

    taps: tuple[Float[Tensor, "B N patches D"], ...]
    camera: Float[Tensor, "B N D"]


def alternating_blocks(dim: int, *, num_heads: int, count: int) -> nn.ModuleList:
    """The frame blocks, or the global ones."""
    return nn.ModuleList(Block(dim, num_heads=num_heads, style=ALTERNATING_BLOCK) for _ in range(count))


class Aggregator(Recomputing):
    """The image encoder and the alternating attention, under their official prefix."""

    def __init__(
        self, encoder: VisionTransformer, *, pairs: int, num_heads: int, taps: Sequence[int], registers: int
    ) -> None:
        """``pairs`` of a frame block and a global block, as wide as the encoder."""
        super().__init__()
        dim = encoder.pos_embed.shape[-1]
        self.taps = tuple(taps)
        self.head_width = dim // num_heads
        self.patch_embed = encoder
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, registers, dim))
        self.frame_blocks = alternating_blocks(dim, num_heads=num_heads, count=pairs)
        self.global_blocks = alternating_blocks(dim, num_heads=num_heads, count=pairs)
        nn.init.normal_(self.camera_token, std=1e-6)
        nn.init.normal_(self.register_token, std=1e-6)

    @property
    def num_special_tokens(self) -> int:
        """Camera token and registers in front of a frame's patches."""
        return 1 + self.register_token.shape[2]

    def with_special_tokens(self, features: Float[Tensor, "B N patches C"]) -> Float[Tensor, "B N tokens C"]:
        """Camera token, registers, patches of every frame."""
        batch, frames = features.shape[:2]
        specials = torch.cat([self.camera_token, self.register_token], dim=2).to(features.dtype)
        own, shared = specials[:, :1], specials[:, 1:].expand(-1, frames - 1, -1, -1)
        return torch.cat([torch.cat([own, shared], dim=1).expand(batch, -1, -1, -1), features], dim=2)

    def forward(self, features: Float[Tensor, "B N patches C"], *, grid: tuple[int, int]) -> AggregatedTokens:
        """Share information between the frames. Only the taps are kept: a released model has 24 pairs and four taps."""
        batch, frames = features.shape[:2]
        specials = self.num_special_tokens
        tokens = self.with_special_tokens(features)
        count = tokens.shape[2]
        positions = grid_positions(grid, specials=specials, device=features.device)
        inside = rotation_of(positions, dim=self.head_width, base=ROTARY_BASE, dtype=features.dtype)
        across = inside.repeated(frames)
        kept: dict[int, Tensor] = {}
        pairs = zip(self.frame_blocks, self.global_blocks, strict=True)
        for index, (frame_block, global_block) in enumerate(pairs):
            in_frames = self.run(frame_block, tokens.flatten(0, 1), inside).unflatten(0, (batch, frames))
            tokens = self.run(global_block, in_frames.flatten(1, 2), across).unflatten(1, (frames, count))
            if index in self.taps:
                kept[index] = torch.cat([in_frames, tokens], dim=-1)
        camera = torch.cat([in_frames[:, :, 0], tokens[:, :, 0]], dim=-1)
        return AggregatedTokens(taps=tuple(kept[tap][:, :, specials:] for tap in self.taps), camera=camera)
