"""The models of a preset: loaded from its folders, or built small with random weights for ``tiny-debug``."""

from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel

from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_checkpoint import load_any4d
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG
from vggrpo.latent_geometry.foundation.any4d_start import start_from_scratch
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel
from vggrpo.latents import VideoVAE
from vggrpo.policy.backbone import TextConditioner, load_transformer
from vggrpo.presets import ModelFolders, Preset
from vggrpo.pretraining.text import build_tokenizer
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.runtime.device import choose_device, choose_dtype
from vggrpo.runtime.integrity import verify_files

DEBUG_VAE = VaeArchitecture(base_dim=8, decoder_base_dim=8)
DEBUG_VIDEO = VideoArchitecture(
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    ffn_dim=64,
    text_dim=32,
    text_layers=1,
)


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everything frozen, in evaluation mode, on one device."""

    vae: VideoVAE
    text: TextConditioner
    transformer: WanTransformer3DModel
    geometry: Any4D
    """Φ: geometry from frames."""
    latent_geometry: LatentGeometryModel
    """Φ_g: geometry from latents."""
    device: torch.device


def load_models(preset: Preset) -> Models:
    """Load a preset's models. Raises a UserError naming a missing, truncated or altered weight file."""
    if preset.folders is None:
        return _build_debug_models(preset)
    verify_files(preset.folders.root, preset.folders.manifest)
    return _load_folders(preset.folders, preset)


def _load_folders(folders: ModelFolders, preset: Preset) -> Models:
    device = choose_device()
    dtype = choose_dtype(device)
    geometry = load_any4d(folders.geometry)
    latent_geometry = LatentGeometryModel.load(folders.latent_geometry, foundation=geometry)
    latent_geometry.merge_lora()
    return Models(
        vae=VideoVAE.load(folders.pipeline / "vae", dtype=dtype, device=device),
        text=TextConditioner.load(folders.pipeline, dtype=torch.float32, device=device, max_tokens=preset.max_tokens),
        transformer=load_transformer(folders.pipeline, dtype=dtype, device=device),
        geometry=geometry.to(device).eval().requires_grad_(requires_grad=False),
        latent_geometry=latent_geometry.to(device).eval().requires_grad_(requires_grad=False),
        device=device,
    )


def _build_debug_models(preset: Preset) -> Models:
    """Random weights from a fixed seed, in fp32 on the CPU: the same on every machine, and without files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(preset.max_tokens)
        encoder = DEBUG_VIDEO.build_text_encoder(tokenizer)
        transformer = DEBUG_VIDEO.build_transformer()
        # A fresh transformer's output layer is zero, and a zero velocity would leave the noise as it is.
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.05)
        vae = DEBUG_VAE.build()
        geometry = Any4D(DEBUG)
        # Plain random heads put every point behind the camera, where no reward can be measured.
        start_from_scratch(geometry)
        connector = ConnectorConfig(latent_channels=DEBUG_VAE.z_dim, token_dim=geometry.token_dim)
        latent_geometry = LatentGeometryModel(geometry, LatentGeometryConfig(block=1, connector=connector, lora_rank=4))
    for module in (encoder, transformer, vae, geometry, latent_geometry):
        module.eval().requires_grad_(requires_grad=False)
    return Models(
        vae=VideoVAE(model=vae),
        text=TextConditioner(tokenizer=tokenizer, encoder=encoder, max_tokens=preset.max_tokens),
        transformer=transformer,
        geometry=geometry,
        latent_geometry=latent_geometry,
        device=torch.device("cpu"),
    )
