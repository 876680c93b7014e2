"""An adapter for ``tiny-debug`` with random weights, in diffusers' format."""

from pathlib import Path

import torch

from vggrpo.generation.models import DEBUG_VIDEO
from vggrpo.policy.adapter import LoraSettings, adapter_parameters, add_adapter, save_adapter
from vggrpo.pretraining.video import VideoArchitecture


def write_adapter(folder: Path, *, architecture: VideoArchitecture = DEBUG_VIDEO) -> Path:
    """The folder, with a LoRA that changes every video (a fresh one, whose B is zero, would change none)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = architecture.build_transformer()
    add_adapter(transformer, LoraSettings(rank=4, alpha=8.0), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(transformer).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    save_adapter(transformer, folder)
    return folder
