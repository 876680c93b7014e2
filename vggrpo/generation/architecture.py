"""Which models a preset is made of, by their sizes alone: no weights are read and no hub is asked.

A folder that the user names is taken at its own word (its ``config.json`` files); otherwise shipped folders, the sizes
of the released models, or the minimal ones of ``tiny-debug``.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5EncoderModel

from vggrpo.generation.options import LoadOptions
from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import build_geometry
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel, read_config
from vggrpo.policy.pipeline_folder import build_part, read_sizes
from vggrpo.policy.wan_sizes import WanSizes
from vggrpo.presets import Preset
from vggrpo.pretraining.text import build_tokenizer
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.pretraining.video import VideoArchitecture

DEBUG_VAE = VaeArchitecture(base_dim=8, decoder_base_dim=8)
DEBUG_VIDEO = VideoArchitecture(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    ffn_dim=64,
    text_dim=32,
    text_layers=1,
)
DEBUG_LORA_RANK = 4
EARLY_CUT = 4
"""Where Φ is cut when no trained Φ_g says it: an early cut leaves most work, so plans err on the safe side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of all models of a preset. What is built has random weights; under ``torch.device("meta")`` none at all."""

    sizes: WanSizes
    geometry: str
    """Name of Φ."""
    geometry_size: Literal["full", "debug"] | Path
    """Φ's released size, the smallest one, or a folder whose ``config.json`` says it."""
    latent_geometry: LatentGeometryConfig | None
    """A trained Φ_g's own, where there is one."""

    def build_transformer(self) -> WanTransformer3DModel:
        """The video transformer in fp32, its output layer not zero: a zero velocity would leave the noise as it is."""
        transformer: WanTransformer3DModel = build_part("transformer", self.sizes)
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.05)
        return transformer

    def build_vae(self) -> AutoencoderKLWan:
        """The video VAE in fp32."""
        vae: AutoencoderKLWan = build_part("vae", self.sizes)
        return vae

    def build_text_encoder(self) -> UMT5EncoderModel:
        """The text encoder in fp32."""
        encoder: UMT5EncoderModel = build_part("text_encoder", self.sizes)
        return encoder

    def build_geometry(self) -> GeometryModel:
        """Φ in fp32."""
        # The surrounding ``with torch.device(…)`` decides, as it does for every module that is built plainly.
        device = torch.get_default_device()
        return build_geometry(self.geometry, random_seed=0, size=self.geometry_size, device=device)

    def build_latent_geometry(self, foundation: GeometryModel, *, copy_foundation: bool = True) -> LatentGeometryModel:
        """Φ_g on a Φ (a copy of it, or Φ itself, which then reads no images): as it was trained, or cut early."""
        config = self.latent_geometry or self._untrained(foundation)
        return LatentGeometryModel(foundation, config, copy_foundation=copy_foundation)

    def _untrained(self, foundation: GeometryModel) -> LatentGeometryConfig:
        connector = ConnectorConfig.for_vae(
            latent_channels=self.sizes.vae["z_dim"],
            vae_compression=self.sizes.vae.get("scale_factor_spatial") or 8,
            token_dim=foundation.token_dim,
        )
        if self.geometry_size == "debug":
            return LatentGeometryConfig(block=1, connector=connector, lora_rank=DEBUG_LORA_RANK)
        return LatentGeometryConfig(block=min(EARLY_CUT, foundation.encoder_depth), connector=connector)


def architecture_of(preset: Preset, options: LoadOptions | None = None) -> Architecture:
    """A preset's models by size. Raises a UserError for a folder of the user's that is none."""
    options = (options or LoadOptions()).at_hand(preset)
    geometry = options.geometry or preset.geometry
    trained = options.latent_geometry
    if options.model_folder is not None:
        sizes = read_sizes(options.model_folder)
    elif preset.folders is not None:
        sizes = read_sizes(preset.folders.pipeline)
    else:
        sizes = preset.sizes or _debug_sizes(preset.max_tokens)
    if trained is None and preset.folders is not None and geometry == preset.geometry:
        trained = preset.folders.latent_geometry
    return Architecture(
        sizes=sizes,
        geometry=geometry,
        geometry_size=_geometry_size(preset, options),
        latent_geometry=None if trained is None else read_config(trained),
    )


def _geometry_size(preset: Preset, options: LoadOptions) -> Literal["full", "debug"] | Path:
    weights = options.geometry_weights
    if weights is not None and (weights / "config.json").is_file():
        return weights
    if preset.folders is not None and options.geometry in {None, preset.geometry}:
        return preset.folders.geometry
    return "full" if preset.is_released_model or preset.folders is not None else "debug"


@cache
def _debug_sizes(max_tokens: int) -> WanSizes:
    """Those of the minimal classes."""
    with torch.device("meta"):
        transformer = DEBUG_VIDEO.build_transformer()
        encoder = DEBUG_VIDEO.build_text_encoder(build_tokenizer(max_tokens))
        vae = DEBUG_VAE.build()
    return WanSizes(
        transformer=dict(transformer.config),
        vae=dict(vae.config),
        text_encoder=encoder.config.to_dict(),
        expand_timesteps=True,
    )
