"""Folders of the released models' kinds with small random weights, for ``--model-folder`` and its companions.

Everything is as the released folders have it but for the widths: diffusers' layout, UMT5's 512 tokens, Wan 2.1's VAE
(8×, 16 channels, causal 3-D) and Wan 2.2's (16×, 48 channels, residual, patches), one timestep a token, statistics.
The tokenizer is the procedural world's: nothing can be downloaded here.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.any4d_config import Any4DConfig
from vggrpo.latent_geometry.foundation.registry import build_geometry, load_geometry, save_geometry
from vggrpo.latent_geometry.model import LatentGeometryConfig, LatentGeometryModel, fingerprint
from vggrpo.policy.wan_sizes import WAN21_1_3B, WAN22_TI2V_5B, WanSizes
from vggrpo.pretraining.text import build_tokenizer

WAN21 = {"preset": "wan2.1-t2v-1.3b", "height": 64, "width": 96, "frames": 9}
WAN22 = {"preset": "wan2.2-ti2v-5b", "height": 64, "width": 96, "frames": 9}
"""Presets and video sizes that the folders are quick at."""

ANY4D = Any4DConfig(
    position_grid=8,
    encoder_dim=64,
    encoder_depth=4,
    encoder_heads=4,
    sharing_dim=48,
    sharing_depth=6,
    sharing_heads=4,
    sharing_taps=(2, 4),
    dpt_features=16,
    dpt_layer_dims=(16, 16, 16, 16),
    pose_hidden=32,
    scale_hidden=16,
)
"""Any4D with the released patches of 14 pixels and flow on the first frame's pixels, narrow and shallow."""

_TEXT_DIM = 48
_SHARD = "1MB"


def write_wan21(folder: Path) -> Path:
    """A folder like Wan2.1-T2V-1.3B-Diffusers; about 2 million parameters."""
    return _write(folder, WAN21_1_3B, base_dim=8)


def write_wan22(folder: Path) -> Path:
    """A folder like Wan2.2-TI2V-5B-Diffusers."""
    return _write(folder, WAN22_TI2V_5B, base_dim=8)


def write_geometry(folder: Path) -> Path:
    """A folder for ``--geometry-weights``: Φ with random weights whose geometry can be measured."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model": "any4d", **asdict(ANY4D)}))
    save_geometry(build_geometry("any4d", random_seed=0, size=folder), folder)
    return folder


def write_latent_geometry(folder: Path, *, geometry: Path, sizes: WanSizes) -> Path:
    """A folder for ``--latent-geometry``: Φ_g on that Φ behind the VAE of ``sizes``, its connector random."""
    foundation = load_geometry("any4d", geometry)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        connector = ConnectorConfig.for_vae(
            latent_channels=sizes.vae["z_dim"],
            vae_compression=sizes.vae["scale_factor_spatial"],
            token_dim=foundation.token_dim,
        )
        config = LatentGeometryConfig(block=2, connector=connector, lora_rank=4, foundation=fingerprint(foundation))
        LatentGeometryModel(foundation, config).save(folder)
    return folder


def small_transformer(sizes: WanSizes) -> WanTransformer3DModel:
    """The released transformer with 3 layers of 4 heads of 24; 24 splits into axes for frames, rows and columns."""
    transformer = WanTransformer3DModel.from_config(
        dict(sizes.transformer)
        | {
            "num_attention_heads": 4,
            "attention_head_dim": 24,
            "num_layers": 3,
            "ffn_dim": 192,
            "text_dim": _TEXT_DIM,
            "rope_max_seq_len": 64,
        }
    )
    # A zero output layer would leave the noise as it is, and prove nothing.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.1)
    return transformer


def _write(folder: Path, sizes: WanSizes, *, base_dim: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(512)
        vae = {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.vae.items()}
        vae |= {"base_dim": base_dim, "decoder_base_dim": base_dim, "num_res_blocks": 1}
        pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=UMT5EncoderModel(
                UMT5Config(
                    vocab_size=len(tokenizer),
                    d_model=_TEXT_DIM,
                    d_kv=12,
                    d_ff=96,
                    num_layers=2,
                    num_heads=4,
                    dropout_rate=0.0,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            ),
            vae=AutoencoderKLWan.from_config(vae),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            transformer=small_transformer(sizes),
            expand_timesteps=sizes.expand_timesteps,
        )
    pipeline.save_pretrained(folder, max_shard_size=_SHARD)
    return folder
