"""The connector C_φ: video latents to the tokens that a geometry model's encoder holds after its block k.

Latents are resampled in time to one step a video frame, then ONE strided 3-D convolution maps them to tokens. Because
the convolution is linear in unfolded patches, it can be initialised in closed form (``stitching``).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.latent_geometry.pixel_grid import connector_stride

PaddingMode = Literal["constant", "replicate"]


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """Sizes of the connector; it belongs to one VAE and one geometry model.

    ``kernel`` (time, rows, columns): 5 × 5 × 5 in the paper, 5 × 3 × 3 in VIST3A. ``stride`` is that of rows and
    columns, see ``pixel_grid``. ``frames_per_latent`` is the VAE's
    temporal compression.
    """

    latent_channels: int
    token_dim: int
    kernel: tuple[int, int, int] = (5, 5, 5)
    stride: int = 2
    frames_per_latent: int = 4
    padding: PaddingMode = "replicate"

    @classmethod
    def for_vae(
        cls, *, latent_channels: int, vae_compression: int, token_dim: int, frames_per_latent: int = 4
    ) -> "ConnectorConfig":
        """The paper's connector between a VAE (``vae_compression`` pixels a latent cell) and a geometry model.

        Raises:
            UserError: no stride fits the VAE.
        """
        return cls(
            latent_channels=latent_channels,
            token_dim=token_dim,
            stride=connector_stride(vae_compression),
            frames_per_latent=frames_per_latent,
        )

    @property
    def patch_features(self) -> int:
        """Numbers in one unfolded patch of latents."""
        time, rows, columns = self.kernel
        return self.latent_channels * time * rows * columns


class Connector(nn.Module):
    """Temporal resampling and one Conv3d."""

    def __init__(self, config: ConnectorConfig) -> None:
        """Random weights; see ``initialise``."""
        super().__init__()
        self.config = config
        stride = (1, config.stride, config.stride)
        self.conv = nn.Conv3d(config.latent_channels, config.token_dim, config.kernel, stride=stride)

    def forward(self, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B N rows columns D"]:
        """Tokens of every video frame, without position embedding."""
        padded = self._padded(latents).to(self.conv.weight.dtype)
        return self.conv(padded).permute(0, 2, 3, 4, 1)

    def output_grid(self, latents: Float[Tensor, "B C T h w"]) -> tuple[int, int, int]:
        """Frames, rows and columns of the tokens that latents give."""
        frames = self.config.frames_per_latent * (latents.shape[2] - 1) + 1
        rows, columns = (math.ceil(size / self.config.stride) for size in latents.shape[-2:])
        return frames, rows, columns

    def unfold(
        self, latents: Float[Tensor, "B C T h w"], *, frames: range | None = None
    ) -> Float[Tensor, "B N rows columns features"]:
        """The patches that the convolution sees, flattened as its weights are (channel, time, row, column).

        ``frames`` are consecutive video frames whose patches are wanted; all if not given.
        """
        (time, rows, columns), stride = self.config.kernel, self.config.stride
        padded = self._padded(latents)
        if frames is not None:
            padded = padded[:, :, frames.start : frames.stop + time - 1]
        patches = padded.unfold(2, time, 1).unfold(3, rows, stride).unfold(4, columns, stride)
        return patches.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)

    @torch.no_grad()
    def initialise(self, weight: Float[Tensor, "D features"], bias: Float[Tensor, " D"]) -> None:
        """Take over a linear map from unfolded patches to tokens."""
        self.conv.weight.copy_(weight.reshape(self.conv.weight.shape))
        if self.conv.bias is not None:
            self.conv.bias.copy_(bias)

    def _padded(self, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B C T2 h2 w2"]:
        time, rows, columns = (size // 2 for size in self.config.kernel)
        resampled = resample_in_time(latents, frames_per_latent=self.config.frames_per_latent)
        return F.pad(resampled, (columns, columns, rows, rows, time, time), mode=self.config.padding)


def resample_in_time(latents: Float[Tensor, "B C T h w"], *, frames_per_latent: int) -> Float[Tensor, "B C N h w"]:
    """Linear in time to N = frames_per_latent (T - 1) + 1 steps.

    Latent frame t keeps its values and stands at video frame 4 t, the last of the four that a causal VAE packs into it.
    """
    batch, channels, count, height, width = latents.shape
    frames = frames_per_latent * (count - 1) + 1
    flat = latents.movedim(2, -1).reshape(-1, channels * height * width, count)
    # At least float32: there is no bfloat16 kernel everywhere, and float64 keeps its digits.
    precise = flat.to(torch.promote_types(flat.dtype, torch.float32))
    resampled = F.interpolate(precise, size=frames, mode="linear", align_corners=True).to(latents.dtype)
    return resampled.reshape(batch, channels, height, width, frames).movedim(-1, 2)
