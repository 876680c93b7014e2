"""The transformer blocks of all geometry models, and their image encoder: a DINOv2 vision transformer.

Parameter names are the official ones. Sources: DINOv2 (arXiv 2304.07193), vision transformers with registers
(arXiv 2309.16588), and golden tensors of the official models; GELU is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vggrpo.latent_geometry.foundation.rotary import Rotation, rotate
from vggrpo.runtime.attention import attention

NORM_EPSILON = 1e-6


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, dim: int, *, num_heads: int, normalised_queries: bool = False) -> None:
        """``dim`` channels over ``num_heads`` heads; optionally a layer norm on each head's queries and keys."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        # Registered only where they exist, so that the state dict has the official names and no more.
        width = dim // num_heads
        self.q_norm = nn.LayerNorm(width) if normalised_queries else nn.Identity()
        self.k_norm = nn.LayerNorm(width) if normalised_queries else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend over all tokens of each batch entry, with rotary positions where they are given."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, dim: int, *, hidden: int | None = None, output: int | None = None) -> None:
        """``dim`` channels in; ``hidden`` (4 ``dim``) inside, ``output`` (``dim``) out."""
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if output is None else output)

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch output"]:
        """Apply to every token."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """A learned factor for every channel of a residual branch."""

    def __init__(self, dim: int, *, start: float) -> None:
        """``start`` is the factor before training."""
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale every channel."""
        return tokens * self.gamma


def branch_scale(dim: int, *, start: float | None) -> nn.Module:
    """A ``LayerScale``, or nothing where ``start`` is None."""
    return nn.Identity() if start is None else LayerScale(dim, start=start)


@dataclass(frozen=True, kw_only=True)
class BlockStyle:
    """What differs between the transformer blocks of the models; ``layer_scale`` is its start, None for none."""

    layer_scale: float | None
    norm_epsilon: float = NORM_EPSILON
    normalised_queries: bool = False


ENCODER_BLOCK = BlockStyle(layer_scale=1.0)
"""The blocks of DINOv2."""


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, *, num_heads: int, style: BlockStyle) -> None:
        """``dim`` channels, ``num_heads`` heads."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=style.norm_epsilon)
        self.attn = SelfAttention(dim, num_heads=num_heads, normalised_queries=style.normalised_queries)
        self.norm2 = nn.LayerNorm(dim, eps=style.norm_epsilon)
        self.mlp = Mlp(dim)
        self.ls1 = branch_scale(dim, start=style.layer_scale)
        self.ls2 = branch_scale(dim, start=style.layer_scale)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], rotation: Rotation | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attention, then MLP, each with its residual."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotation))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Recomputing(nn.Module):
    """A module whose blocks may be run again in the backward pass, so that their activations need not be kept."""

    recomputes: bool = False

    def run(self, block: Callable[..., Tensor], *inputs: object) -> Tensor:
        """``block(*inputs)``; with ``recomputes`` and gradients on, only the inputs are kept for the backward pass."""
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class PatchEmbed(nn.Module):
    """A patch of pixels to a token, as a strided convolution."""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        """``dim`` channels out of RGB patches."""
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch patches dim"]:
        """Tokens row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class EncoderStyle:
    """What differs between the DINOv2 encoders of the models.

    ``registers``: learned tokens without position between class token and patches. ``mask_token``: a parameter of the
    official training, part of the state dict and unused. ``antialias``: position embeddings are resized by size with
    antialiasing (bicubic coefficient -0.5); else by the factors (n + ``resize_offset``) / grid without it (-0.75), and
    the offset moves the sampling points, too.
    """

    registers: int = 0
    mask_token: bool = False
    antialias: bool = False
    resize_offset: float = 0.1


class VisionTransformer(Recomputing):
    """Frame-wise encoder whose blocks can be run from and to any index."""

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        num_heads: int,
        patch_size: int,
        position_grid: int,
        style: EncoderStyle,
    ) -> None:
        """``position_grid`` is the side of the square grid of learned position embeddings."""
        super().__init__()
        self.patch_size = patch_size
        self.position_grid = position_grid
        self.style = style
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_grid**2, dim))
        self.patch_embed = PatchEmbed(dim, patch_size=patch_size)
        self.blocks = nn.ModuleList(Block(dim, num_heads=num_heads, style=ENCODER_BLOCK) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        if style.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, style.registers, dim))
            nn.init.normal_(self.register_tokens, std=1e-6)
        if style.mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, dim))

    @property
    def num_prefix_tokens(self) -> int:
        """The class token and the registers."""
        return 1 + self.style.registers

    def patch_positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 patches dim"]:
        """Position embedding of the patch tokens for a token grid of ``grid`` (rows, columns).

        Untouched for the native square grid, else resized as the style says.
        """
        learned = self.pos_embed[:, 1:]
        side = self.position_grid
        if grid == (side, side):
            return learned
        plane = learned.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        # Bicubic has no bfloat16 kernel on every device, and the resize is tiny: always float32.
        if self.style.antialias:
            resized = F.interpolate(plane.float(), size=grid, mode="bicubic", antialias=True)
        else:
            factors = tuple((count + self.style.resize_offset) / side for count in grid)
            resized = F.interpolate(plane.float(), scale_factor=factors, mode="bicubic")
        return resized.to(learned.dtype).flatten(2).transpose(1, 2)

    def embed(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch tokens dim"]:
        """Class token, registers, and patch tokens with positions: the input of block 0. ``images`` are normalised."""
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        patches = self.patch_embed(images) + self.patch_positions(grid)
        prefix = [self.cls_token + self.pos_embed[:, :1]]
        if self.style.registers:
            prefix.append(self.register_tokens)
        return torch.cat([*(token.expand(images.shape[0], -1, -1) for token in prefix), patches], dim=1)

    def run_blocks(
        self, tokens: Float[Tensor, "batch tokens dim"], *, start: int, stop: int
    ) -> Float[Tensor, "batch tokens dim"]:
        """Blocks ``start`` … ``stop`` - 1."""
        for block in self.blocks[start:stop]:
            tokens = self.run(block, tokens)
        return tokens
