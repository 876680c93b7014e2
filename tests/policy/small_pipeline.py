"""A genuine ``WanPipeline`` folder with small random weights; see ``conftest``."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline

from vggrpo.pretraining.text import build_tokenizer
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.pretraining.video import VideoArchitecture

SMALL = VideoArchitecture(
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    ffn_dim=32,
    latent_channels=4,
    text_dim=32,
    text_layers=1,
)


def write_pipeline(folder: Path) -> None:
    """Written as ``pretrain video`` writes it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(SMALL.max_tokens)
    vae: AutoencoderKLWan = VaeArchitecture(base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=(1, 1, 1)).build()
    transformer = SMALL.build_transformer()
    # The output layer starts at zero in some versions; a velocity of zero would prove nothing.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=SMALL.build_text_encoder(tokenizer),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer,
        expand_timesteps=True,
    ).save_pretrained(folder)
