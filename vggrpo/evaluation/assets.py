"""``evaluate assets``: the embedded models on held-out seeds, against the targets that they were made for.

Clip i has the world seed ``first_seed + i``, which no training draws; its caption is the prompt of generated clip i,
whose noise has the same seed. So generated and true clips are compared caption by caption.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vggrpo.evaluation.asset_clips import (
    AssetModels,
    GeneratedClip,
    TrueClip,
    features_of,
    measure_generated,
    measure_true_clip,
)
from vggrpo.evaluation.asset_rows import OtherClips, Row, asset_rows
from vggrpo.evaluation.contact_sheet import SheetRow, key_frames, spread_over_moves
from vggrpo.latents import video_from_frames
from vggrpo.types import Latents, WorldClip
from vggrpo.worlds.scenes import sample_scene

SHEET_CLIPS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSeed:
    """A held-out world, by its caption and seed."""

    prompt: str
    seed: int


ClipOf = Callable[[int], WorldClip]
"""The true clip of a world seed."""
Denoise = Callable[[Sequence[PromptSeed]], Latents]
"""Prompts with their noise seeds to latents z_0, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutClips:
    """Which clips: ``count`` of them from ``first_seed`` on, denoised ``batch`` at a time."""

    count: int
    first_seed: int = 0
    batch: int = 4

    def prompts(self) -> tuple[PromptSeed, ...]:
        """Their captions."""
        seeds = range(self.first_seed, self.first_seed + self.count)
        return tuple(PromptSeed(prompt=sample_scene(seed).caption, seed=seed) for seed in seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProgress:
    """``done`` of ``total`` clips (true and generated ones count alike)."""

    phase: str
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetEvaluation:
    """The table, and the pictures to look at."""

    rows: tuple[Row, ...]
    sheet: tuple[SheetRow, ...]
    held_out: HeldOutClips
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Rows by key; a row's ``reached`` is null where nothing was measured."""
        return {
            "clips": self.held_out.count,
            "first_seed": self.held_out.first_seed,
            "seconds": round(self.seconds, 1),
            "rows": {row.key: row.to_json() for row in self.rows},
        }


def evaluate_assets(
    models: AssetModels,
    held_out: HeldOutClips,
    *,
    clip_of: ClipOf,
    denoise: Denoise,
    weight_bytes: Sequence[int] | None,
    on_progress: Callable[[EvaluationProgress], None],
) -> AssetEvaluation:
    """Measure everything; true and generated clips take turns, so that the time left is known from the start."""
    prompts = held_out.prompts()
    clock = _Clock(on_progress=on_progress, total=2 * held_out.count)
    true: list[TrueClip] = []
    generated: list[GeneratedClip] = []
    others = []
    for start in range(0, held_out.count, held_out.batch):
        batch = prompts[start : start + held_out.batch]
        for item in batch:
            true.append(measure_true_clip(models, clip_of(item.seed), seed=item.seed))
            other = torch.from_numpy(clip_of(item.seed + held_out.count).rgb)[None]
            others.append(features_of(models.geometry, video_from_frames(other).to(models.device)))
            clock.advance("true clips", 1)
        texts = tuple(item.prompt for item in batch)
        generated += measure_generated(models, denoise(batch), prompts=texts)
        clock.advance("generated clips", len(batch))
    return AssetEvaluation(
        rows=asset_rows(true, generated, others=OtherClips(features=others), weight_bytes=weight_bytes),
        sheet=_sheet(prompts, generated, clip_of=clip_of),
        held_out=held_out,
        seconds=clock.elapsed,
    )


def contact_sheet_rows(
    models: AssetModels, prompts: Sequence[PromptSeed], *, clip_of: ClipOf, denoise: Denoise
) -> tuple[SheetRow, ...]:
    """Generate these prompts for a sheet, one at a time; nothing is measured."""
    rows = []
    for item in prompts:
        clip = measure_generated(models, denoise([item]), prompts=(item.prompt,))[0]
        rows.append(SheetRow(caption=item.prompt, generated=clip.key_frames, real=key_frames(clip_of(item.seed).rgb)))
    return tuple(rows)


def sheet_prompts(*, count: int = SHEET_CLIPS, first_seed: int = 0) -> tuple[PromptSeed, ...]:
    """The prompts of the shipped sheet: of the first held-out seeds those that show every camera move."""
    prompts = HeldOutClips(count=4 * count, first_seed=first_seed).prompts()
    moves = [sample_scene(item.seed).camera.name for item in prompts]
    return tuple(prompts[index] for index in spread_over_moves(moves, count=count))


def _sheet(
    prompts: Sequence[PromptSeed], generated: Sequence[GeneratedClip], *, clip_of: ClipOf
) -> tuple[SheetRow, ...]:
    """The sheet from clips that were generated anyway."""
    moves = [str(clip.claims.camera_move) for clip in generated]
    return tuple(
        SheetRow(
            caption=prompts[index].prompt,
            generated=generated[index].key_frames,
            real=key_frames(clip_of(prompts[index].seed).rgb),
        )
        for index in spread_over_moves(moves, count=SHEET_CLIPS)
    )


@dataclass(slots=True)
class _Clock:
    """Counts clips and tells how long the rest will take."""

    on_progress: Callable[[EvaluationProgress], None]
    total: int
    done: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began

    def advance(self, phase: str, clips: int) -> None:
        """So many more clips are done."""
        self.done += clips
        left = self.elapsed * (self.total - self.done) / self.done
        self.on_progress(EvaluationProgress(phase=phase, done=self.done, total=self.total, seconds_left=left))
