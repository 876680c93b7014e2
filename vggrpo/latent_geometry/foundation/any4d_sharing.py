"""Information sharing of Any4D: attention over all views (even layers) and inside each view (odd layers)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.vit import NORM_EPSILON, Block, BlockStyle, Recomputing

SHARING_BLOCK = BlockStyle(layer_scale=None)


@dataclass(frozen=True, kw_only=True)
class SharedFeatures:
    """Patch tokens at the two taps and at the end, and the scale token, all behind the final norm."""

    taps: tuple[Float[Tensor, "B N patches D"], Float[Tensor, "B N patches D"]]
    final: Float[Tensor, "B N patches D"]
    scale_token: Float[Tensor, "B D"]


def sinusoid_table(rows: int, *, dim: int) -> Float[Tensor, "rows dim"]:
    """Sinusoidal encoding of positions 0 … rows - 1: sine on even channels, cosine on odd ones, base 10000."""
    channel = torch.arange(dim, dtype=torch.float64)
    frequency = 10000.0 ** (-2 * torch.div(channel, 2, rounding_mode="floor") / dim)
    angle = torch.arange(rows, dtype=torch.float64)[:, None] * frequency
    return torch.where(channel.remainder(2) == 0, angle.sin(), angle.cos()).float()


class AlternatingAttention(Recomputing):
    """Global layers see the tokens of all views and the scale token; frame layers see one view, without it."""

    view_pos_table: Tensor

    def __init__(
        self, input_dim: int, *, dim: int, depth: int, num_heads: int, taps: tuple[int, int], max_views: int
    ) -> None:
        """Tokens of ``input_dim`` channels are projected to ``dim``; ``taps`` are layer indices."""
        super().__init__()
        self.taps = taps
        self.register_buffer("view_pos_table", sinusoid_table(max_views, dim=dim))
        self.proj_embed = nn.Linear(input_dim, dim)
        self.self_attention_blocks = nn.ModuleList(
            Block(dim, num_heads=num_heads, style=SHARING_BLOCK) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)

    def view_encoding(
        self, tokens: Float[Tensor, "B N patches D"], *, offsets: Int[Tensor, "B N"] | None
    ) -> Float[Tensor, "#B N 1 D"]:
        """Encoding of every view: row ``offsets[b, i]`` of the table, zero for views beyond a table of one row.

        Raises:
            ValueError: a table of several rows has fewer rows than the video needs.
        """
        views = tokens.shape[1]
        table = self.view_pos_table.to(tokens.dtype)
        if table.shape[0] == 1:
            encoding = torch.cat([table, table.new_zeros(views - 1, table.shape[1])])[None]
        else:
            rows = torch.arange(views, device=tokens.device)[None] if offsets is None else offsets
            # Without offsets nothing is read off the device: no wait for a GPU, and it runs on ``meta``.
            last = views - 1 if offsets is None else int(offsets.max())
            if last >= table.shape[0]:
                raise ValueError(f"frame {last} is beyond the {table.shape[0]} frames this model can order")
            encoding = table[rows]
        return encoding[:, :, None]

    def forward(
        self,
        features: Float[Tensor, "B N patches C"],
        scale_token: Float[Tensor, " C"],
        *,
        offsets: Int[Tensor, "B N"] | None = None,
    ) -> SharedFeatures:
        """Share information; ``offsets`` are frame numbers relative to view 0 where frames were left out."""
        batch, views, patches, _ = features.shape
        tokens = self.proj_embed(features)
        tokens = tokens + self.view_encoding(tokens, offsets=offsets)
        scale = self.proj_embed(scale_token).expand(batch, 1, -1)
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.self_attention_blocks):
            if index % 2 == 0:
                merged = self.run(block, torch.cat([tokens.flatten(1, 2), scale], dim=1))
                tokens = merged[:, :-1].unflatten(1, (views, patches))
                scale = merged[:, -1:]
            else:
                tokens = self.run(block, tokens.flatten(0, 1)).unflatten(0, (batch, views))
            if index in self.taps:
                kept[index] = self.norm(tokens)
        first, second = self.taps
        return SharedFeatures(
            taps=(kept[first], kept[second]), final=self.norm(tokens), scale_token=self.norm(scale)[:, 0]
        )
