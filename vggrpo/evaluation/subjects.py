"""What is evaluated, as the little that evaluation asks of it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vggrpo.types import Latents, SceneGeometry


@runtime_checkable
class Autoencoder(Protocol):
    """The video VAE."""

    def encode_normalised(self, video: Float[Tensor, "B 3 N H W"]) -> Latents:
        """Latents of a video in [-1, 1]."""
        ...

    def decode_normalised(self, latents: Latents) -> Float[Tensor, "B 3 N H W"]:
        """The video of latents, in [-1, 1]."""
        ...


@runtime_checkable
class FrameReader(Protocol):
    """Φ, see ``GeometryModel``."""

    @property
    def patch_size(self) -> int:
        """Side of one token's square of pixels."""
        ...

    def encode_tokens(self, images: Float[Tensor, "B N 3 H W"], *, upto: int) -> Float[Tensor, "B N S C"]:
        """Tokens after ``upto`` encoder blocks of images in [0, 1]."""
        ...

    def finish_encoder(self, tokens: Float[Tensor, "B N S C"], *, start: int) -> Float[Tensor, "B N patches C"]:
        """The encoder blocks from index ``start`` on, and its final norm."""
        ...

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        """The geometry of videos given as images in [0, 1]."""
        ...


LatentReader = Callable[[Latents], SceneGeometry]
"""Φ_g"""


@runtime_checkable
class ObjectCounter(Protocol):
    """The judge of objects, see ``ObjectJudge``."""

    def visible_pixels(self, video: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N kinds"]:
        """Pixels of every kind of object in each frame of a video in [0, 1]."""
        ...
