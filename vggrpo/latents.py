"""The frozen video VAE, shared by figure (a) and figure (b): encode, decode, raw ↔ normalised."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor

from vggrpo.types import Latents, RawLatents


@dataclass(frozen=True, kw_only=True)
class VideoVAE:
    """``AutoencoderKLWan`` with the two latent spaces kept apart by type."""

    model: AutoencoderKLWan

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: torch.device) -> "VideoVAE":
        """Load from a diffusers folder (safetensors only), frozen, in evaluation mode."""
        model = AutoencoderKLWan.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
        model.to(device).eval().requires_grad_(requires_grad=False)
        return cls(model=model)

    def encode(self, video: Float[Tensor, "B 3 N H W"]) -> RawLatents:
        """Posterior mean of a video in [-1, 1]; N = 4 (T - 1) + 1. fp32 out."""
        posterior = self.model.encode(video.to(self.model.device, self.model.dtype)).latent_dist
        return RawLatents(tensor=posterior.mode().float())

    def decode(self, latents: RawLatents) -> Float[Tensor, "B 3 N H W"]:
        """Video in [-1, 1], fp32."""
        return self.model.decode(latents.tensor.to(self.model.device, self.model.dtype)).sample.float()

    def normalise(self, raw: RawLatents) -> Latents:
        """(raw − mean) / std per channel."""
        mean, std = self._statistics(raw.tensor)
        return Latents(tensor=(raw.tensor - mean) / std)

    def denormalise(self, latents: Latents) -> RawLatents:
        """latents · std + mean per channel."""
        mean, std = self._statistics(latents.tensor)
        return RawLatents(tensor=latents.tensor * std + mean)

    def encode_normalised(self, video: Float[Tensor, "B 3 N H W"]) -> Latents:
        """``encode`` then ``normalise``."""
        return self.normalise(self.encode(video))

    def decode_normalised(self, latents: Latents) -> Float[Tensor, "B 3 N H W"]:
        """``denormalise`` then ``decode``."""
        return self.decode(self.denormalise(latents))

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.model.config
        mean = torch.tensor(config.latents_mean, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
        std = torch.tensor(config.latents_std, dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
        return mean, std


def video_from_frames(frames: Tensor) -> Float[Tensor, "B 3 N H W"]:
    """uint8 [B, N, H, W, 3] to float [-1, 1], channels first."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def frames_from_video(video: Float[Tensor, "B 3 N H W"]) -> Tensor:
    """Float [-1, 1], channels first, to uint8 [B, N, H, W, 3] on the CPU."""
    scaled = (video.float().clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu()
