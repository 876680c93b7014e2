"""Sizes of the released Wan models, as diffusers' classes take them: numbers only, nothing heavy is imported.

Sources: the ``config.json`` files of Wan-AI/Wan2.1-T2V-1.3B-Diffusers and Wan-AI/Wan2.2-TI2V-5B-Diffusers. A folder of
weights is always read with its own ``config.json``; these numbers serve plans, benchmarks with random weights, and to
say when a folder holds another model than its preset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Config = Mapping[str, Any]

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，"
    "手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
"""What both models were evaluated with by their authors; it must be the same in training and evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanSizes:
    """Arguments of ``WanTransformer3DModel``, ``AutoencoderKLWan`` and transformers' ``UMT5Config``."""

    transformer: Config
    vae: Config
    text_encoder: Config
    expand_timesteps: bool
    """One timestep a token, so that a given first frame can stay clean (Wan 2.2 TI2V)."""


UMT5_XXL: Config = MappingProxyType(
    {
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }
)

_TRANSFORMER: Config = MappingProxyType(
    {
        "patch_size": (1, 2, 2),
        "attention_head_dim": 128,
        "num_layers": 30,
        "text_dim": 4096,
        "freq_dim": 256,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
    }
)

# fmt: off
_WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
_WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
_WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
_WAN22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on

WAN21_1_3B = WanSizes(
    transformer=MappingProxyType(
        {**_TRANSFORMER, "num_attention_heads": 12, "ffn_dim": 8960, "in_channels": 16, "out_channels": 16}
    ),
    vae=MappingProxyType(
        {
            "base_dim": 96,
            "z_dim": 16,
            "dim_mult": (1, 2, 4, 4),
            "num_res_blocks": 2,
            "temperal_downsample": (False, True, True),
            "latents_mean": _WAN21_MEAN,
            "latents_std": _WAN21_STD,
            "scale_factor_temporal": 4,
            "scale_factor_spatial": 8,
        }
    ),
    text_encoder=UMT5_XXL,
    expand_timesteps=False,
)
"""1.42 billion parameters in the transformer, 127 million in the VAE, 5.68 billion in the text encoder."""

WAN22_TI2V_5B = WanSizes(
    transformer=MappingProxyType(
        {**_TRANSFORMER, "num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}
    ),
    vae=MappingProxyType(
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "dim_mult": (1, 2, 4, 4),
            "num_res_blocks": 2,
            "temperal_downsample": (False, True, True),
            "latents_mean": _WAN22_MEAN,
            "latents_std": _WAN22_STD,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_temporal": 4,
            "scale_factor_spatial": 16,
        }
    ),
    text_encoder=UMT5_XXL,
    expand_timesteps=True,
)
"""5.00 billion parameters in the transformer, 705 million in the VAE."""
