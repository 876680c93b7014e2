"""A training in miniature: the real transformer class, minimal, judged by how bright its latents are."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from vggrpo.generation.models import DEBUG_VIDEO
from vggrpo.grpo.config import GrpoConfig, RewardWeights
from vggrpo.grpo.defaults import training_defaults
from vggrpo.grpo.models import GrpoModels
from vggrpo.grpo.preference import Ranking
from vggrpo.grpo.prompts import PromptSets
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.grpo.trainer import TrainResult, train
from vggrpo.rewards import reward_names
from vggrpo.types import Latents

SHAPE = (16, 2, 4, 4)
PROMPTS = PromptSets(training=("one", "two", "three"), evaluation=("four", "five"))
CONFIG = replace(
    training_defaults("tiny-debug"),
    iterations=4,
    guidance=1.0,
    # What the shipped presets train with may change; these numbers were chosen for brightness.
    transition="constant",
    learning_rate=1e-4,
    motion_floor=0.9,
    weights=RewardWeights(geometry_consistency=0.0),
    evaluation_guidance=1.0,
    evaluate_every=0,
    sample_every=0,
    motion_guard=0.0,
)


@dataclass
class Brightness:
    """motion_smoothness is the latents' mean; the camera path length is 1 for everybody."""

    name: str = "latent"
    before: Callable[[Latents], None] = lambda _: None
    """Called with every batch that is judged."""
    judged: list[int] = field(default_factory=list)
    """Sizes of these batches."""

    def camera_path_length(self, latents: Latents) -> Tensor:
        return self.score(latents)["camera_path_length"]

    def score(self, latents: Latents) -> dict[str, Tensor]:
        self.before(latents)
        self.judged.append(len(latents.tensor))
        one = torch.ones(len(latents.tensor))
        brightness = latents.tensor.mean((1, 2, 3, 4))
        return dict.fromkeys((*reward_names(), *GUARDS), one) | {"motion_smoothness": brightness}


def embed(prompt: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(prompt.encode()))
    return torch.randn(1, 4, DEBUG_VIDEO.text_dim, generator=generator)


def decode(latents: Latents) -> Tensor:
    """Frames of 16 × 16 whose red is the latents' first channel."""
    red = ((latents.tensor[:, :1].clamp(-1, 1) + 1) * 127).to(torch.uint8)
    frames = red.repeat_interleave(4, -1).repeat_interleave(4, -2).repeat_interleave(2, 2)
    return frames.expand(-1, 3, -1, -1, -1).permute(0, 2, 3, 4, 1).contiguous()


def brightness_ranking(latents: Latents) -> Ranking:
    """Bright videos are preferred; all move alike."""
    bright = latents.tensor.mean((1, 2, 3, 4)).clone()
    return Ranking(scores={"brightness": bright}, motion=torch.ones(len(bright)))


@dataclass
class ToyClips:
    """One clip a caption and number; ``unreadable`` captions give none."""

    unreadable: frozenset[str] = frozenset()
    asked: list[str] = field(default_factory=list)

    def latents(self, caption: str, *, number: int) -> Latents | None:
        self.asked.append(caption)
        if caption in self.unreadable:
            return None
        generator = torch.Generator().manual_seed(sum(caption.encode()) + 1000 * number)
        return Latents(tensor=torch.randn(1, *SHAPE, generator=generator))


def make_models(rewards: object | None = None) -> GrpoModels:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = DEBUG_VIDEO.build_transformer()
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.05)
    return GrpoModels(
        transformer=transformer.eval().requires_grad_(requires_grad=False),
        embed=embed,
        negative=torch.zeros(1, 4, DEBUG_VIDEO.text_dim),
        check_prompt=lambda _: None,
        latent_shape=SHAPE,
        rewards=rewards or Brightness(),
        decode=decode,
        fps=8,
    )


def run(
    out: Path, config: GrpoConfig = CONFIG, *, models: GrpoModels | None = None, resume: bool = False
) -> TrainResult:
    return train(config, models or make_models(), prompts=PROMPTS, out=out, resume=resume)
