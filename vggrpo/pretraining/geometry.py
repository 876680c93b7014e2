"""``pretrain geometry``: the embedded geometry model Φ, trained on the procedural world's exact truth.

Two kinds of steps are mixed. Motion steps train cameras and correspondences only: no dense head runs, so they are cheap
and see many camera motions. Dense steps train everything. Both read several clips of a few frames, or, more and more
often, whole clips, as the model will be used; there the transformer sees every frame and the dense heads a few of them.
``geometry_matching`` says what teaches the motion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from vggrpo.latent_geometry.foundation.any4d import Any4D, FrameSelection
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG, JUDGE, TINY, Any4DConfig
from vggrpo.latent_geometry.foundation.any4d_start import start_from_scratch
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import load_geometry, save_geometry
from vggrpo.latent_geometry.metrics import GeometryMetrics, clip_metrics, combine
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.pretraining.geometry_batches import (
    GeometryBatch,
    choose_frames,
    choose_ordered,
    degrade,
    make_batch,
    mirror,
)
from vggrpo.pretraining.geometry_losses import (
    MEAN_ROTATIONS,
    MEDIAN_ROTATIONS,
    GeometryLossWeights,
    geometry_losses,
)
from vggrpo.pretraining.geometry_matching import MatchingTeacher
from vggrpo.runtime.device import choose_dtype, set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.types import WorldClip
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene

NUM_FRAMES = 17
MIRRORED = 0.5
"""Share of batches that are seen in a mirror."""


@dataclass(frozen=True, kw_only=True)
class GeometryTraining:
    """Everything that decides the result of ``pretrain geometry``.

    A step is dense with a probability that rises linearly over the run (``dense_steps``), and reads whole clips with
    one that rises likewise (``whole_steps``). Otherwise it reads ``frame_budget`` frames in clips of ``short_frames``
    (least, most); a whole step reads ``whole_clips`` clips. Of each clip of a dense step, up to ``short_dense`` or
    ``whole_dense`` frames get dense outputs.
    """

    model: Any4DConfig
    loop: LoopConfig
    weights: GeometryLossWeights = field(default_factory=GeometryLossWeights)
    num_clips: int = 2000
    first_clip: int = FIRST_TRAINING_SEED
    """The world seed of the first of ``num_clips`` training clips."""
    image_size: int = 128
    frame_budget: int = 32
    short_frames: tuple[int, int] = (2, 3)
    short_dense: int = 1
    whole_clips: int = 2
    whole_dense: int = 4
    dense_steps: tuple[float, float] = (0.1, 0.6)
    whole_steps: tuple[float, float] = (0.1, 0.8)
    mean_rotations_from: float = 0.1
    """Fraction of the run from which rotations are learnt as means, see ``RotationLoss``."""
    bfloat16: bool = True
    start_from: Path | None = None
    """The folder of a finished model of this shape to train further, instead of a fresh one."""

    def going_on(self, start_from: Path) -> "GeometryTraining":
        """These settings for a finished model: mostly whole clips, as it will be used, and a lower rate."""
        loop = replace(self.loop, steps=2400, learning_rate=self.loop.learning_rate / 2)
        return replace(
            self,
            loop=loop,
            dense_steps=(0.5, 0.6),
            whole_steps=(0.7, 0.9),
            mean_rotations_from=0.0,
            start_from=start_from,
        )

    def build(self) -> Any4D:
        """The model to train, in fp32. Raises a UserError for a folder with another model."""
        if self.start_from is None:
            model = Any4D(self.model)
            start_from_scratch(model)
            return model
        finished = load_geometry("any4d", self.start_from, device=torch.device("cpu"), dtype=torch.float32)
        if not isinstance(finished, Any4D) or finished.config != self.model:
            raise UserError(f"{self.start_from} holds a geometry model of another shape than the one to be trained.")
        return finished.train().requires_grad_(requires_grad=True)


TINY_TRAINING = GeometryTraining(
    model=TINY,
    loop=LoopConfig(
        steps=6000,
        learning_rate=8e-4,
        warmup_steps=100,
        final_learning_rate=0.02,
        weight_decay=0.01,
        optimiser="muon",
        ema_decay=0.998,
        checkpoint_every=100,
    ),
)
"""The embedded model's training: about two hours on one CPU core."""

JUDGE_TRAINING = GeometryTraining(
    model=JUDGE,
    loop=LoopConfig(
        steps=3600,
        learning_rate=1e-3,
        warmup_steps=100,
        final_learning_rate=0.02,
        weight_decay=0.01,
        optimiser="muon",
        ema_decay=0.998,
        checkpoint_every=100,
        seed=1,
    ),
    num_clips=1200,
    first_clip=FIRST_TRAINING_SEED + 10_000,
    dense_steps=(0.4, 0.8),
    whole_steps=(0.1, 0.6),
)
"""The independent judge: another size, other random numbers, and other worlds than anything else was trained on.

More dense steps than for Φ, because evaluation fits cameras to what the frames show, and takes depth from the judge.
"""

DEBUG_TRAINING = GeometryTraining(
    model=DEBUG,
    loop=LoopConfig(steps=4, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, checkpoint_every=2),
    num_clips=2,
    image_size=32,
    frame_budget=4,
    short_frames=(2, 3),
    whole_clips=1,
    whole_dense=2,
    bfloat16=False,
)
"""Seconds, for tests."""


def pretrain_geometry(
    training: GeometryTraining, *, out: Path, resume: bool = False, cache: Path | None = None
) -> TrainingResult:
    """Train Φ; writes checkpoints and metrics to ``out``, and at the end the averaged weights to ``out/model``.

    Raises:
        UserError: ``out`` holds another run, or cannot be written.
    """
    set_threads("background")
    torch.manual_seed(training.loop.seed)
    model = training.build()
    if training.bfloat16 and choose_dtype(torch.device("cpu")) == torch.bfloat16:
        model.to_bfloat16()
    clips = ClipCache(folder=cache or default_cache(), size=training.image_size)
    teacher = MatchingTeacher(model)
    loop = TrainingLoop({"geometry": model, "teacher": teacher}, training.loop, out)

    def losses(step: Step) -> dict[str, torch.Tensor]:
        batch = draw_batch(step, training, clips=clips)
        images = degrade(batch.images, rng=step.rng, generator=step.generator)
        output = model(images, selection=FrameSelection(offsets=batch.offsets, dense=batch.dense))
        rotations = MEDIAN_ROTATIONS if step.fraction < training.mean_rotations_from else MEAN_ROTATIONS
        taught = teacher(batch, rotations=rotations)
        return geometry_losses(output, batch, weights=training.weights, more=taught, rotations=rotations)

    result = loop.run(losses, resume=resume)
    if result.finished:
        model.float()
        loop.use_masters()
        loop.use_ema()
        save_geometry(model, out / "model")
    return result


def draw_batch(step: Step, training: GeometryTraining, *, clips: ClipCache) -> GeometryBatch:
    """The batch of a step, from the step's own random numbers."""
    is_dense = step.rng.random() < _rising(training.dense_steps, step.fraction)
    if step.rng.random() < _rising(training.whole_steps, step.fraction):
        count, dense_count = training.whole_clips, training.whole_dense
        frames = np.tile(np.arange(NUM_FRAMES), (count, 1))
    else:
        length = int(step.rng.integers(training.short_frames[0], training.short_frames[1] + 1))
        count, dense_count = training.frame_budget // length, training.short_dense
        choose = choose_frames if is_dense else choose_ordered
        frames = np.stack([choose(step.rng, total=NUM_FRAMES, count=length) for _ in range(count)])
    dense_count = min(dense_count, frames.shape[1]) if is_dense else 0
    dense = np.sort(step.rng.choice(frames.shape[1], size=dense_count, replace=False))
    seeds = training.first_clip + step.rng.choice(training.num_clips, size=count, replace=False)
    chosen = [clips.clip(int(seed), frames=row) for seed, row in zip(seeds, frames, strict=True)]
    scenes = [sample_scene(int(seed)) for seed in seeds]
    batch = make_batch(chosen, scenes=scenes, frames=frames, dense=dense, total=NUM_FRAMES)
    return mirror(batch) if step.rng.random() < MIRRORED else batch


def _rising(share: tuple[float, float], fraction: float) -> float:
    """A share that rises linearly over the run."""
    return share[0] + (share[1] - share[0]) * fraction


@torch.no_grad()
def evaluate_geometry_model(model: GeometryModel, clips: Sequence[WorldClip] | Iterator[WorldClip]) -> GeometryMetrics:
    """Φ on whole clips against their truth."""
    results = []
    for clip in clips:
        images = torch.from_numpy(clip.rgb).permute(0, 3, 1, 2)[None].float() / 255
        results.append(clip_metrics(model.geometry(images), clip=clip))
    return combine(results)
