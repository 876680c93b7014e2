"""Golden tensors and small models for the tests of figure (a)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Tensors of the official tiny Any4D."""
    with safe_open(GOLDEN / "any4d_tiny.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


@pytest.fixture(scope="session")
def official_keys() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released model's state dict."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / "any4d_full_keys.json").read_text()).items()}


@pytest.fixture
def debug_model() -> Any4D:
    """The smallest model, random weights."""
    torch.manual_seed(3)
    return Any4D(DEBUG).eval()
