"""The learner's own numbers, on gradients that are known."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool
from torch import Tensor

from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.learner import Learner
from vggrpo.grpo.lesson import Lesson, PassLoss
from vggrpo.grpo.processes import Processes
from vggrpo.policy.adapter import LoraSettings, adapter_parameters, add_adapter
from vggrpo.pretraining.video import VideoArchitecture

CONFIG = GrpoConfig(learning_rate=1e-30, weight_decay=0.0, gradient_clip=1e9)
"""A rate that moves nothing: every gradient is taken at the same weights."""


@dataclass(frozen=True)
class Pull:
    """A loss that is linear in the adapter."""

    slopes: tuple[float, float]
    """Of the first half of the adapter's matrices, and of the others."""
    number: int = 0
    passes: int = 1

    @property
    def usable(self) -> Bool[Tensor, " B"]:
        return torch.ones(1, dtype=torch.bool)

    def loss(self, transformer: WanTransformer3DModel, index: int) -> PassLoss:
        del index
        weights = list(adapter_parameters(transformer).values())
        half = len(weights) // 2
        total = sum(
            self.slopes[place >= half] * weight.sum() / math.sqrt(weight.numel())
            for place, weight in enumerate(weights)
        )
        return PassLoss(loss=torch.as_tensor(total).view(1), logged={}, ratio=None)


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    transformer = VideoArchitecture(num_layers=2, num_attention_heads=2, attention_head_dim=12).build_transformer()
    add_adapter(transformer, LoraSettings(rank=2), seed=0)
    processes = Processes.open(device=torch.device("cpu"), out=tmp_path)
    return Learner(transformer, CONFIG, processes)


def agreement(learner: Learner, *slopes: float) -> float:
    lesson = Lesson(batches=[Pull(slopes=(slopes[0], slopes[1]))], logged=(), metrics={}, has_ratio=False)
    return learner.improve(lesson, check_ratio=False).grad_agreement


def test_agreement_is_the_cosine_with_the_mean_of_earlier_gradients(learner: Learner) -> None:
    assert math.isnan(agreement(learner, 3.0, 0.0))
    assert agreement(learner, 5.0, 0.0) == pytest.approx(1.0, abs=1e-5)
    assert agreement(learner, -2.0, 0.0) == pytest.approx(-1.0, abs=1e-5)
    assert agreement(learner, 0.0, 4.0) == pytest.approx(0.0, abs=1e-5)


def test_agreement_at_an_angle(learner: Learner) -> None:
    """Gradients (1, 0) and (1, 1) over two halves of equal size."""
    agreement(learner, 1.0, 0.0)
    assert agreement(learner, 1.0, 1.0) == pytest.approx(math.sqrt(0.5), abs=1e-5)
