"""What a geometry foundation model Φ = T_L ∘ … ∘ T_1 must offer so that it can be cut and stitched to latents.

Every supported model begins with a frame-wise vision transformer. Its blocks are the only places where a cut is
allowed: behind them frames are mixed, and the dense heads tap the encoder's output. A model is therefore three steps,

    tokens   = model.encode_tokens(images, upto=k)              T_k ∘ … ∘ T_1
    features = model.finish_encoder(tokens, start=k)            the rest of the encoder
    scene    = model.decode(features, grid=(h, w))              everything behind it, in the project's conventions

and ``decode(finish_encoder(encode_tokens(images, upto=k), start=k))`` is bit for bit the same for every k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from vggrpo.types import SceneGeometry

Grid = tuple[int, int]
"""Height and width of a frame's token grid (rows, columns)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedFrames:
    """The cameras of all frames, and the whole geometry of those frames that were asked for.

    The dense heads are the dearest part of a model: training reads them on a few frames only.
    """

    camera_from_world: Float[Tensor, "B N 4 4"]
    scene: SceneGeometry


@runtime_checkable
class GeometryModel(Protocol):
    """A geometry foundation model that can be cut after any block of its image encoder.

    Letters: B videos, N frames, H, W pixels, S = ``num_prefix_tokens`` + h w tokens a frame, C = ``token_dim``.
    """

    @property
    def patch_size(self) -> int:
        """Side of one token's square of pixels."""
        ...

    @property
    def token_dim(self) -> int:
        """C, the width of the image encoder."""
        ...

    @property
    def encoder_depth(self) -> int:
        """Number of blocks of the image encoder: a cut k lies in 1 … ``encoder_depth``."""
        ...

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens in front of the patch tokens."""
        ...

    def position_embedding(self, grid: Grid) -> Float[Tensor, "1 patches C"]:
        """The encoder's position embedding of the patch tokens, resized to ``grid``, row by row."""
        ...

    def encode_tokens(self, images: Float[Tensor, "B N 3 H W"], *, upto: int) -> Float[Tensor, "B N S C"]:
        """Tokens after ``upto`` encoder blocks of images in [0, 1] (0: the input of the first block)."""
        ...

    def encoder_activations(self, images: Float[Tensor, "B N 3 H W"]) -> Iterator[Float[Tensor, "B N S C"]]:
        """The tokens after block 1, 2, … ``encoder_depth``, in one pass."""
        ...

    def finish_encoder(self, tokens: Float[Tensor, "B N S C"], *, start: int) -> Float[Tensor, "B N patches C"]:
        """Run the encoder blocks from index ``start`` on, and its final norm."""
        ...

    def decode(self, features: Float[Tensor, "B N patches C"], *, grid: Grid) -> SceneGeometry:
        """Geometry from the encoder's output; the world frame is exactly the camera of frame 0."""
        ...

    def decode_frames(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, frames: Int[Tensor, " M"]
    ) -> DecodedFrames:
        """Like ``decode``, with dense geometry for ``frames`` only."""
        ...

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        """Φ(x): the geometry of videos given as images in [0, 1]."""
        ...

    def to_bfloat16(self) -> None:
        """Hold the weights in bfloat16, except those whose outputs need more digits."""
        ...

    @property
    def full_precision_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names of those parameters."""
        ...

    @property
    def dense_chunk(self) -> int | None:
        """How many frames' dense maps are made at once; None: as many as a fixed number of pixels allows."""
        ...

    @dense_chunk.setter
    def dense_chunk(self, frames: int | None) -> None: ...

    def checkpoint_blocks(self, *, enabled: bool) -> None:
        """Whether blocks and dense heads run again in the backward pass instead of keeping their activations."""
        ...

    def drop_blocks(self, *, upto: int) -> None:
        """Free the patch embedding and blocks 1 … ``upto``, which a connector replaces; images cannot pass any more."""
        ...

    def grid_of(self, images: Float[Tensor, "B N 3 H W"]) -> Grid:
        """Token grid of images."""
        ...

    def tail_linear_names(self, *, start: int) -> list[str]:
        """Names of the linear layers behind the cut that LoRA adapts."""
        ...
