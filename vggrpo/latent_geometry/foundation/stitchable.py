"""What the geometry models of this package have in common: a DINOv2 encoder that can be cut, and how they are held.

A subclass names its encoder, the parts that need every digit, and the transformer blocks behind the encoder, and adds
``decode`` and ``decode_frames``: then it is a ``base.GeometryModel``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.any4d_config import Any4DConfig
from vggrpo.latent_geometry.foundation.base import Grid
from vggrpo.latent_geometry.foundation.vggt_config import VGGTConfig
from vggrpo.latent_geometry.foundation.vit import Recomputing, VisionTransformer

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Dense maps of about this many pixels are made at once: 8 frames of 518 x 518, some 2 GB of float32 activations.
PIXELS_AT_ONCE = 8 * 518 * 518
# A CPU is faster with what its caches hold: 16 frames of 128 x 128 take a third less time each than 128 of them.
_PIXELS_IN_CACHE = 1 << 18


def pixels_at_once(device: torch.device) -> int:
    """How many pixels of dense maps are made together where nothing else was asked for."""
    return _PIXELS_IN_CACHE if device.type == "cpu" else PIXELS_AT_ONCE


FoundationConfig = Any4DConfig | VGGTConfig


class HeldFoundation(Recomputing):
    """How any geometry foundation model is held: in which precision, and with which activations."""

    full_precision_prefixes: ClassVar[tuple[str, ...]] = ()
    """Parameters whose outputs are geometry to three or more digits; bfloat16 has two and a half."""

    def to_bfloat16(self) -> None:
        """Hold the weights in bfloat16, except those whose outputs need more digits."""
        for name, parameter in self.named_parameters():
            if not name.startswith(self.full_precision_prefixes):
                parameter.data = parameter.data.to(torch.bfloat16)

    def checkpoint_blocks(self, *, enabled: bool) -> None:
        """Whether blocks and dense heads run again in the backward pass instead of keeping their activations."""
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.recomputes = enabled


class StitchableFoundation(HeldFoundation):
    """A geometry foundation model whose frame-wise encoder can be cut after any block."""

    encoder_name: ClassVar[str]
    """Path of the ``VisionTransformer``."""
    fusion_prefixes: ClassVar[tuple[str, ...]]
    """The transformer blocks behind the encoder, which LoRA adapts."""

    config: FoundationConfig
    image_mean: Tensor
    image_std: Tensor
    dense_chunk: int | None = None
    """How many frames' dense maps are made at once; None: as many as ``pixels_at_once`` allows."""

    def __init__(self) -> None:
        """Only the constants; a subclass builds the rest."""
        super().__init__()
        self.set_constants()

    def set_constants(self, device: torch.device | None = None) -> None:
        """(Re)make what no checkpoint holds; a model that was built on ``meta`` has it nowhere."""
        for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(values, device=device).view(3, 1, 1), persistent=False)

    @property
    def vit(self) -> VisionTransformer:
        """The frame-wise image encoder."""
        return cast(VisionTransformer, self.get_submodule(self.encoder_name))

    @property
    def patch_size(self) -> int:
        """Side of one token's square of pixels."""
        return self.vit.patch_size

    @property
    def token_dim(self) -> int:
        """Width of the image encoder."""
        return self.vit.pos_embed.shape[-1]

    @property
    def encoder_depth(self) -> int:
        """Number of blocks of the image encoder."""
        return len(self.vit.blocks)

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens in front of the patch tokens."""
        return self.vit.num_prefix_tokens

    def drop_blocks(self, *, upto: int) -> None:
        """Free what a connector replaces: the patch embedding and blocks 1 … ``upto``. Indices stay as they are."""
        vit = self.vit
        vit.add_module("patch_embed", Replaced())
        for index in range(upto):
            vit.blocks[index] = Replaced()

    def position_embedding(self, grid: Grid) -> Float[Tensor, "1 patches C"]:
        """The encoder's position embedding of the patch tokens on ``grid``."""
        return self.vit.patch_positions(grid)

    def encode_tokens(self, images: Float[Tensor, "B N 3 H W"], *, upto: int) -> Float[Tensor, "B N S C"]:
        """Tokens after ``upto`` encoder blocks of images in [0, 1]: class token, registers, patches row by row.

        Raises:
            ValueError: height or width is no multiple of the patch size.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images of {height} x {width} pixels: both must be multiples of {self.patch_size}")
        normalised = (images - self.image_mean) / self.image_std
        vit = self.vit
        tokens = vit.embed(normalised.flatten(0, 1).to(vit.pos_embed.dtype))
        return vit.run_blocks(tokens, start=0, stop=upto).unflatten(0, images.shape[:2])

    def encoder_activations(self, images: Float[Tensor, "B N 3 H W"]) -> Iterator[Float[Tensor, "B N S C"]]:
        """The tokens after block 1, 2, … ``encoder_depth``, in one pass."""
        tokens = self.encode_tokens(images, upto=0).flatten(0, 1)
        for index in range(self.encoder_depth):
            tokens = self.vit.run_blocks(tokens, start=index, stop=index + 1)
            yield tokens.unflatten(0, images.shape[:2])

    def finish_encoder(self, tokens: Float[Tensor, "B N S C"], *, start: int) -> Float[Tensor, "B N patches C"]:
        """Blocks from ``start`` on, the final norm, and the prefix tokens left behind."""
        vit = self.vit
        finished = vit.run_blocks(tokens.flatten(0, 1), start=start, stop=self.encoder_depth)
        return vit.norm(finished)[:, self.num_prefix_tokens :].unflatten(0, tokens.shape[:2])

    def grid_of(self, images: Float[Tensor, "B N 3 H W"]) -> Grid:
        """Token grid of images."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def tail_linear_names(self, *, start: int) -> list[str]:
        """Linear layers of the encoder blocks behind the cut and of the blocks behind the encoder."""
        tail = tuple(f"{self.encoder_name}.blocks.{index}." for index in range(start, self.encoder_depth))
        prefixes = (*tail, *self.fusion_prefixes)
        return [
            name for name, module in self.named_modules() if isinstance(module, nn.Linear) and name.startswith(prefixes)
        ]

    def dense_maps(
        self, head: Callable[[list[Tensor]], Tensor], maps: Sequence[Tensor], *, pixels: int
    ) -> Float[Tensor, "batch channels H W"]:
        """``head`` on token maps [batch, dim, h, w], a few frames at a time, so that only few hold full-size maps.

        ``pixels`` is the number of pixels of one result. ``batch`` must not be empty: not every device has
        convolutions of nothing.
        """
        count = self.dense_chunk or max(1, pixels_at_once(maps[0].device) // pixels)

        def read(*part: Tensor) -> Tensor:
            raw = head(list(part))
            # bfloat16 has too few digits for geometry; float64, in which gradients are checked, keeps its own.
            return raw.to(torch.promote_types(raw.dtype, torch.float32))

        parts = zip(*(plane.split(count) for plane in maps), strict=True)
        return torch.cat([self.run(read, *part) for part in parts])


class Replaced(nn.Module):
    """Stands where a connector took over."""

    def forward(self, *_inputs: object) -> Tensor:
        """Always fails: images cannot pass.

        Raises:
            RuntimeError: whenever it is called.
        """
        raise RuntimeError("this model's first blocks were replaced by a connector: it reads latents, not images")
