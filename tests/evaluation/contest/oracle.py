"""A contest whose outcome is known: a video is one number, its defect; judges read that number.

Contestant by contestant the defect of a take is the scene's own times the contestant's factor, so that relative changes
are the factors themselves, prompt by prompt and to the last digit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggrpo.evaluation.contest.contestants import BASE, Contestant, TrueClips
from vggrpo.evaluation.contest.drive import Contest, ContestModels
from vggrpo.evaluation.contest.files import ContestFolder
from vggrpo.evaluation.contest.question import Question, Take, given_prompts
from vggrpo.evaluation.judges import MEASURES, Finding
from vggrpo.types import Latents

FRAMES, FEATURES = 3, 2
LOWER = {"sampson", "reprojection", "roughness_travel", "roughness_turn"}


def question(*, prompts: int = 8, repeats: int = 2) -> Question:
    half = prompts // 2
    static = tuple(f"static {number}" for number in range(half))
    dynamic = tuple(f"dynamic {number}" for number in range(prompts - half))
    return Question(prompts=given_prompts(static=static, dynamic=dynamic), repeats=repeats)


def contestants(**factors: float) -> tuple[Contestant, ...]:
    """Base and others with the factor of their defects as what they are."""
    objectives = {"sft": "sft", "dpo": "dpo", "vggrpo": "grpo"}
    others = tuple(
        Contestant(
            name=name,
            title=name.upper(),
            about={"factor": factor},
            objective=objectives.get(name),
            videos=640,
            seen=frozenset({"sampson"}) if name == "dpo" else frozenset(),
        )
        for name, factor in factors.items()
    )
    return (Contestant(name=BASE, title="base", about={"factor": 1.0}), *others)


def defect(take: Take) -> float:
    """The scene's own."""
    return 1.0 + 0.1 * take.prompt + 0.01 * take.repeat


@dataclass
class NumberVae:
    """Videos are constant, latents hold their number."""

    def encode_normalised(self, video: Tensor) -> Latents:
        return Latents(tensor=video.mean().reshape(1, 1, 1, 1, 1))

    def decode_normalised(self, latents: Latents) -> Tensor:
        return latents.tensor.reshape(-1, 1, 1, 1, 1).expand(-1, 3, FRAMES, 4, 4).clone()


@dataclass
class NumberJudges:
    """Measures that are better when lower are the defect, the others its inverse. ``blind`` above a defect."""

    blind_above: float = math.inf
    judged: list[float] = field(default_factory=list)

    def judge(self, video: Tensor, *, prompts: Sequence[str]) -> Mapping[str, list[Finding]]:
        assert len(prompts) == len(video) == 1
        number = float(video.mean())
        self.judged.append(number)
        if number > self.blind_above:
            return {one.name: [Finding(value=math.nan, reason="too blurred")] for one in MEASURES}
        return {one.name: [Finding(value=number if one.name in LOWER else 1.0 / number)] for one in MEASURES}

    def features(self, video: Tensor) -> np.ndarray:
        """Around the defect, spread from frame to frame."""
        number = float(video.mean())
        spread = np.array([[-0.5, 0.3], [0.5, -0.1], [0.0, -0.2]])
        return (number + spread * math.sin(97.0 * number))[None]


@dataclass
class NumberDraw:
    """Draws and counts; ``stop_after`` so many videos a Ctrl-C comes."""

    asked: Question
    stop_after: int = 10**9
    drawn: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, contestant: Contestant, takes: Sequence[Take]) -> Latents:
        if len(self.drawn) >= self.stop_after:
            raise KeyboardInterrupt
        self.drawn += [(contestant.name, take.name) for take in takes]
        factor = contestant.about["factor"]
        numbers = [factor * defect(take) for take in takes]
        return Latents(tensor=torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1, 1))


def true_clips(*, judged: int, count: int = 24) -> TrueClips:
    """Clips of half the defect."""
    return TrueClips(
        film=lambda number: torch.full((1, 3, FRAMES, 4, 4), 0.5 * defect(Take(prompt=number, repeat=0))),
        names=tuple(f"clip {number}" for number in range(count)),
        captions=tuple(f"caption {number}" for number in range(count)),
        kinds=tuple("static" if number % 2 == 0 else "dynamic" for number in range(count)),
        judged=judged,
        reference=count // 2,
    )


def models(draw: NumberDraw, judges: NumberJudges | None = None) -> ContestModels:
    return ContestModels(
        draw=draw,
        vae=NumberVae(),
        judges=judges or NumberJudges(),
        latent_geometry=None,
        device=torch.device("cpu"),
    )


def contest(folder: Path, *, asked: Question, who: tuple[Contestant, ...], true: bool = True) -> Contest:
    return Contest(
        question=asked,
        contestants=who,
        true=true_clips(judged=len(asked.prompts)) if true else None,
        folder=ContestFolder(path=folder, preset="tiny-debug"),
        batch=3,
    )
