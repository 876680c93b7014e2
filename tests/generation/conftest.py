"""One studio of the debug preset for all tests here: random weights, seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict

from vggrpo.generation import Studio
from vggrpo.generation.models import DEBUG_VIDEO
from vggrpo.pretraining.video import VideoArchitecture


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio.load("tiny-debug")


@pytest.fixture
def make_lora(tmp_path: Path) -> Callable[..., Path]:
    """Write a LoRA with random weights for a transformer of an architecture, as diffusers itself does."""

    def make(architecture: VideoArchitecture = DEBUG_VIDEO, *, name: str = "lora") -> Path:
        torch.manual_seed(1)
        transformer = architecture.build_transformer()
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=targets))
        folder = tmp_path / name
        # Without the metadata α is lost, and loading takes α = r.
        metadata = transformer.peft_config["default"].to_dict()
        layers = get_peft_model_state_dict(transformer)
        WanPipeline.save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=metadata
        )
        return folder

    return make
