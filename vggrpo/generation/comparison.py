"""Many prompts with and without an adapter (or guidance): every reward of both sides, and the paired difference.

Nothing is decoded (unless the requests ask for rewards of decoded video): latents, Φ_g, rewards. Prompts and seeds are
the same on both sides.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from vggrpo.evaluation import PairedDifference, paired_differences
from vggrpo.generation.batch import denoise_batch
from vggrpo.generation.pair import SIDES, Side
from vggrpo.generation.request import GenerateRequest, RewardSpaceName
from vggrpo.generation.studio import ShouldStop, Studio
from vggrpo.rewards import judge
from vggrpo.runtime.errors import Cancelled, UserError
from vggrpo.types import Latents
from vggrpo.worlds.scenes import sample_scene

COMPARISON = "comparison.json"
BATCH = 4
MAX_PROMPTS = 4096

Values = Mapping[str, Float[np.ndarray, " n"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSeed:
    """One prompt and its seed; raises a UserError for a prompt or a seed that cannot be generated."""

    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SideScores:
    """Rewards and guards of one side by name, in the order of the prompts; NaN = could not be judged."""

    rewards: Values
    guards: Values


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Both sides over the same prompts, with ``tuned − base`` and its interval for every reward and guard."""

    jobs: tuple[PromptSeed, ...]
    base: SideScores
    tuned: SideScores
    rewards: Mapping[str, PairedDifference]
    guards: Mapping[str, PairedDifference]

    def to_json(self) -> dict[str, object]:
        """The content of ``comparison.json``; a NaN becomes null when it is written."""
        return {
            "prompts": [job.prompt for job in self.jobs],
            "seeds": [job.seed for job in self.jobs],
            "base": _lists(self.base.rewards),
            "tuned": _lists(self.tuned.rewards),
            "paired": {name: _ends(found) for name, found in self.rewards.items()},
            "guards": {
                "base": _lists(self.base.guards),
                "tuned": _lists(self.tuned.guards),
                "paired": {name: _ends(found) for name, found in self.guards.items()},
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonProgress:
    """``done`` of ``total`` denoising steps of all videos; ``partial`` holds the prompts that are finished so far."""

    done: int
    total: int
    seconds_left: float | None
    partial: Comparison | None = None


OnProgress = Callable[[ComparisonProgress], None]


def held_out_prompts(count: int, *, seed: int) -> tuple[PromptSeed, ...]:
    """Captions of world seeds ``seed``, ``seed + 1``, …, which no training draws, each with its own noise.

    Raises a UserError for a count or seed that is out of range.
    """
    from vggrpo.worlds import FIRST_TRAINING_SEED

    if not 1 <= count <= MAX_PROMPTS:
        raise UserError(f"{count} prompts were asked for; give 1 to {MAX_PROMPTS}.")
    if not 0 <= seed <= FIRST_TRAINING_SEED - count:
        raise UserError(f"The seed is {seed}; give 0 to {FIRST_TRAINING_SEED - count}, the held-out worlds.")
    return tuple(PromptSeed(prompt=sample_scene(one).caption, seed=one) for one in range(seed, seed + count))


def numbered(prompts: Sequence[str], *, seed: int) -> tuple[PromptSeed, ...]:
    """Prompts with the seeds ``seed``, ``seed + 1``, …"""
    return tuple(PromptSeed(prompt=prompt, seed=seed + index) for index, prompt in enumerate(prompts))


def compare_prompts(
    studio: Studio,
    jobs: Sequence[PromptSeed],
    *,
    base: GenerateRequest,
    tuned: GenerateRequest,
    on_progress: OnProgress,
    should_stop: ShouldStop,
    batch: int = BATCH,
) -> Comparison:
    """Score every prompt on both sides, whose settings are those of two requests (their prompt and seed are not used).

    Raises a UserError before the first step for an adapter or a prompt that cannot be used, and Cancelled.
    """
    requests = {"base": _requests(base, jobs), "tuned": _requests(tuned, jobs)}
    for template in (base, tuned):
        if template.adapter is not None:
            studio.require_fitting(template.adapter)
    studio.prepare_text([request.prompt for request in requests["base"]])
    steps = {side: requests[side][0].steps or studio.preset.steps for side in SIDES}
    clock = _Clock(on_progress=on_progress, should_stop=should_stop, total=len(jobs) * sum(steps.values()))
    scores: dict[Side, list[SideScores]] = {side: [] for side in SIDES}
    done = 0
    for start in range(0, len(jobs), batch):
        for side in SIDES:
            part = requests[side][start : start + batch]
            clock.begin(len(part))
            latents = denoise_batch(studio, part, on_step=clock.step)
            scores[side].append(_score(studio, latents, reward_space=part[0].reward_space))
        done += len(part)
        clock.report(partial=_compare(jobs[:done], scores))
    return _compare(jobs, scores)


@dataclass(slots=True)
class _Clock:
    """Counts denoising steps over all videos, and hears Cancel at each."""

    on_progress: OnProgress
    should_stop: ShouldStop
    total: int
    done: int = 0
    began: float = field(default_factory=time.perf_counter)
    _videos: int = 1

    def begin(self, videos: int) -> None:
        """The next steps are of so many videos at once."""
        self._videos = videos

    def step(self, _done: int, _steps: int) -> None:
        """One denoising step of a batch is done."""
        self.done += self._videos
        self.report()

    def report(self, partial: Comparison | None = None) -> None:
        """Tell how far it is; raises Cancelled if the user asked to stop."""
        if self.should_stop():
            raise Cancelled
        elapsed = time.perf_counter() - self.began
        left = elapsed * (self.total - self.done) / self.done if self.done else None
        progress = ComparisonProgress(done=self.done, total=self.total, seconds_left=left, partial=partial)
        self.on_progress(progress)


def _requests(template: GenerateRequest, jobs: Sequence[PromptSeed]) -> list[GenerateRequest]:
    """One request a job; each is checked as it is made."""
    if not jobs:
        raise UserError("There is no prompt to compare on; give at least one.")
    return [replace(template, prompt=job.prompt, seed=job.seed) for job in jobs]


def _score(studio: Studio, latents: Latents, *, reward_space: RewardSpaceName) -> SideScores:
    """Rewards and guards of a batch through Φ_g (or its decoded video and Φ)."""
    report = judge(studio.read_geometry(latents, reward_space=reward_space))
    guards = ("camera_path_length", "dynamic_degree", "moving_share")
    return SideScores(
        rewards={name: term.value.detach().cpu().double().numpy() for name, term in report.terms.items()},
        guards={name: getattr(report.guards, name).detach().cpu().double().numpy() for name in guards},
    )


def _compare(jobs: Sequence[PromptSeed], scores: Mapping[Side, Sequence[SideScores]]) -> Comparison:
    """The batches of both sides joined."""
    base, tuned = (_joined(scores[side]) for side in SIDES)
    return Comparison(
        jobs=tuple(jobs),
        base=base,
        tuned=tuned,
        rewards=paired_differences(base.rewards, tuned.rewards),
        guards=paired_differences(base.guards, tuned.guards),
    )


def _joined(parts: Sequence[SideScores]) -> SideScores:
    return SideScores(
        rewards={name: np.concatenate([part.rewards[name] for part in parts]) for name in parts[0].rewards},
        guards={name: np.concatenate([part.guards[name] for part in parts]) for name in parts[0].guards},
    )


def _lists(values: Values) -> dict[str, list[float]]:
    """Seven significant digits: float32 holds no more."""
    return {name: [float(f"{value:.7g}") for value in array] for name, array in values.items()}


def _ends(found: PairedDifference) -> dict[str, object]:
    """A difference in the contract's form."""
    entry: dict[str, object] = {name: getattr(found, name) for name in ("mean", "low", "high", "n", "left_out")}
    return entry if found.reason is None else entry | {"reason": found.reason}
