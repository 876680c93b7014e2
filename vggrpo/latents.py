"""The frozen video VAE, shared by figure (a) and figure (b): encode, decode, raw ↔ normalised."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.lazy import Lazy
from vggrpo.types import Latents, RawLatents


class VideoVAE:
    """``AutoencoderKLWan`` with the two latent spaces kept apart by type.

    Its weights are loaded when they are first needed: a latent reward never needs them. Sizes and latent statistics are
    the configuration's, and known at once.
    """

    def __init__(
        self, *, model: AutoencoderKLWan | None = None, source: Lazy[AutoencoderKLWan] | None = None, config: Any = None
    ) -> None:
        """Around a model at hand, or (see ``load``) one to be loaded from ``source`` as ``config`` describes it."""
        if model is not None:
            source, config = Lazy(lambda: model), model.config
        if source is None or config is None:
            raise ValueError("a VideoVAE needs a model, or a source with its configuration")
        self._source = source
        self.config: Mapping[str, Any] = config

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: torch.device) -> "VideoVAE":
        """From a diffusers folder (safetensors only), frozen, in evaluation mode; the weights wait for first use."""

        def make() -> AutoencoderKLWan:
            model = AutoencoderKLWan.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
            # One clip after another bounds the memory of a batch, and changes no number.
            model.enable_slicing()
            return model.to(device).eval().requires_grad_(requires_grad=False)

        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / 'config.json'} is missing or damaged: fetch or train the VAE again.") from error
        return cls(source=Lazy(make), config=config)

    @property
    def model(self) -> AutoencoderKLWan:
        """The network, loaded on the first call."""
        return self._source.get()

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._source.is_loaded

    def release(self) -> None:
        """Let the weights go; the next use loads them again."""
        self._source.release()

    @property
    def z_dim(self) -> int:
        """C, channels of the latents."""
        return int(self.config["z_dim"])

    @property
    def spatial_factor(self) -> int:
        """Pixels a side of one latent cell."""
        return int(self.config.get("scale_factor_spatial") or 8)

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
        mean = torch.tensor(self.config["latents_mean"], dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
        std = torch.tensor(self.config["latents_std"], dtype=like.dtype, device=like.device).view(1, -1, 1, 1, 1)
        return mean, std


def video_from_frames(frames: Tensor) -> Float[Tensor, "B 3 N H W"]:
    """uint8 [B, N, H, W, 3] to float [-1, 1], channels first."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def frames_from_video(video: Float[Tensor, "B 3 N H W"]) -> Tensor:
    """Float [-1, 1], channels first, to uint8 [B, N, H, W, 3] on the CPU."""
    scaled = (video.float().clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu()
