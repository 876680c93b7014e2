"""The image encoder of Any4D: a DINOv2 vision transformer without registers, under the official parameter names.

Sources: DINOv2 (arXiv 2304.07193) and the golden tensors; layer norms use epsilon 1e-6, GELU is exact.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-6
# Official DINOv2 entry points resize the position grid by (n + 0.1) / grid; the offset also moves the sampling points.
RESIZE_OFFSET = 0.1
# Up to here plain matrix products beat the fused kernel on a CPU: fivefold in bfloat16's backward pass (measured).
PLAIN_ATTENTION_TOKENS = 512


def attention(
    query: Float[Tensor, "*batch tokens dim"],
    key: Float[Tensor, "*batch tokens dim"],
    value: Float[Tensor, "*batch tokens dim"],
) -> Float[Tensor, "*batch tokens dim"]:
    """softmax(q kᵀ / √dim) v, by the kernel that suits the length."""
    if query.device.type != "cpu" or query.shape[-2] > PLAIN_ATTENTION_TOKENS:
        return F.scaled_dot_product_attention(query, key, value)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return logits.softmax(dim=-1) @ value


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        """``dim`` channels, split over ``num_heads`` heads."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Attend over all tokens of each batch entry."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them, four times wider inside."""

    def __init__(self, dim: int) -> None:
        """``dim`` channels in and out."""
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Apply to every token."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """A learned factor for every channel of a residual branch."""

    def __init__(self, dim: int) -> None:
        """Start at 1, as the released encoder does."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale every channel."""
        return tokens * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block; ``layer_scale`` as in DINOv2, without it as in the sharing layers."""

    def __init__(self, dim: int, *, num_heads: int, layer_scale: bool) -> None:
        """``dim`` channels, ``num_heads`` heads."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.attn = SelfAttention(dim, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.mlp = Mlp(dim)
        # Registered only where it exists, so that the state dict has the official names and no more.
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Attention, then MLP, each with its residual."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbed(nn.Module):
    """A patch of pixels to a token, as a strided convolution."""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        """``dim`` channels out of RGB patches."""
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch patches dim"]:
        """Tokens row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Frame-wise encoder whose blocks can be run from and to any index."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, patch_size: int, position_grid: int) -> None:
        """``position_grid`` is the side of the square grid of learned position embeddings."""
        super().__init__()
        self.patch_size = patch_size
        self.position_grid = position_grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_grid**2, dim))
        self.patch_embed = PatchEmbed(dim, patch_size=patch_size)
        self.blocks = nn.ModuleList(Block(dim, num_heads=num_heads, layer_scale=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def patch_positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 patches dim"]:
        """Position embedding of the patch tokens for a token grid of ``grid`` (rows, columns).

        Bicubic with coefficient -0.75 and no antialiasing, by the factors (n + 0.1) / grid; untouched for the native
        square grid.
        """
        learned = self.pos_embed[:, 1:]
        side = self.position_grid
        if grid == (side, side):
            return learned
        plane = learned.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factors = tuple((count + RESIZE_OFFSET) / side for count in grid)
        # Bicubic has no bfloat16 kernel on every device, and the resize is tiny: always float32.
        resized = F.interpolate(plane.float(), scale_factor=factors, mode="bicubic").to(learned.dtype)
        return resized.flatten(2).transpose(1, 2)

    def embed(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch tokens dim"]:
        """Class token and patch tokens with positions: the input of block 0. ``images`` are normalised."""
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        patches = self.patch_embed(images) + self.patch_positions(grid)
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(images.shape[0], -1, -1)
        return torch.cat([class_token, patches], dim=1)

    def run_blocks(
        self, tokens: Float[Tensor, "batch tokens dim"], *, start: int, stop: int
    ) -> Float[Tensor, "batch tokens dim"]:
        """Blocks ``start`` … ``stop`` - 1."""
        for block in self.blocks[start:stop]:
            tokens = block(tokens)
        return tokens
