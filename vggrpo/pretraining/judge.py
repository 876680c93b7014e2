"""``pretrain judge``: the judge of objects, trained on the world's exact masks.

Frames are softened at random the way a video autoencoder softens them, so that the judge reads generated frames too.
The loss is the cross-entropy between the true and the judged shares of every cell.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vggrpo.evaluation.object_accuracy import ObjectAccuracy, object_accuracy, true_visible_pixels
from vggrpo.evaluation.object_judge import CELL, KINDS, JudgeConfig, ObjectJudge
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.runtime.device import set_threads
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.worlds import FIRST_TRAINING_SEED

SOFT_SHARE = 0.7
"""Share of frames that lose detail."""
BLOTCH_SHARE = 0.5
"""Share of frames with large, faint stains of colour."""
REPORT = "judge.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTraining:
    """Settings of ``pretrain judge``."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1400,
            learning_rate=2e-3,
            warmup_steps=50,
            final_learning_rate=0.02,
            weight_decay=0.01,
            ema_decay=0.995,
            checkpoint_every=100,
        )
    )
    clips: int = 2000
    """Size of the pool of training clips."""
    clips_at_start: int = 300
    """The pool grows by a clip a step, so that training can begin while clips are still being rendered."""
    frames_a_step: int = 16
    num_frames: int = 17
    size: int = 128
    object_weight: float = 4.0
    """How much more a cell with an object counts than one without: most cells show none."""
    held_out_clips: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeBatch:
    """Frames in [0, 1], and the true share of every class in every cell."""

    images: Float[Tensor, "B 3 H W"]
    shares: Float[Tensor, "B classes rows columns"]


def pretrain_judge(training: JudgeTraining, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train, and when finished write the judge to ``out/model`` and its held-out accuracy to ``out/judge.json``.

    Raises:
        UserError: ``out`` holds another run, or cannot be written.
    """
    set_threads("background")
    torch.manual_seed(training.loop.seed)
    # float32: convolutions this narrow gain nothing from bfloat16 on a CPU (measured).
    judge = ObjectJudge(training.judge)
    cache = ClipCache(folder=default_cache(), num_frames=training.num_frames, size=training.size)
    loop = TrainingLoop({"judge": judge}, training.loop, out)

    def losses(step: Step) -> dict[str, Tensor]:
        return judge_losses(judge, draw_batch(step, training, cache=cache), training)

    result = loop.run(losses, resume=resume)
    if result.finished:
        loop.use_masters()
        loop.use_ema()
        judge.save(out / "model")
        write_report(out, cache, training=training, result=result)
    return result


def judge_losses(judge: ObjectJudge, batch: JudgeBatch, training: JudgeTraining) -> dict[str, Tensor]:
    """Cross-entropy of shares, cells with an object weighted up; ``floor`` is what perfect shares would cost."""
    logits = judge(batch.images)
    weight = 1.0 + (training.object_weight - 1.0) * (batch.shares[:, 0] < 1.0).float()
    cross_entropy = -(batch.shares * logits.log_softmax(dim=1)).sum(dim=1)
    entropy = -(batch.shares * batch.shares.clamp(min=1e-9).log()).sum(dim=1)
    total = weight.sum()
    best = (logits.argmax(dim=1) == batch.shares.argmax(dim=1)) & (batch.shares[:, 0] < 0.5)
    return {
        "loss": (weight * cross_entropy).sum() / total,
        "floor": (weight * entropy).sum() / total,
        "object_cells_right": best.sum() / (batch.shares[:, 0] < 0.5).sum().clamp(min=1),
    }


def draw_batch(step: Step, training: JudgeTraining, *, cache: ClipCache) -> JudgeBatch:
    """Frames of random training clips, half of them mirrored, softened at random."""
    pool = min(training.clips, training.clips_at_start + step.index)
    images, shares = [], []
    for _ in range(training.frames_a_step):
        seed = FIRST_TRAINING_SEED + int(step.rng.integers(pool))
        frame = step.rng.integers(training.num_frames, size=1)
        clip = cache.clip(seed, frames=frame)
        image = torch.from_numpy(clip.rgb[0]).permute(2, 0, 1).float() / 255.0
        share = cell_shares(clip.object_id[0], seed=seed)
        if step.rng.random() < 0.5:
            image, share = image.flip(-1), share.flip(-1)
        images.append(soften(image, rng=step.rng, generator=step.generator))
        shares.append(share)
    return JudgeBatch(images=torch.stack(images), shares=torch.stack(shares))


def cell_shares(object_id: UInt8[np.ndarray, "H W"], *, seed: int) -> Float[Tensor, "classes rows columns"]:
    """The share of every class in every cell of a frame of the world clip ``seed``."""
    masks = true_visible_pixels(object_id[None], seed=seed)
    shares = torch.zeros(1 + len(KINDS), object_id.shape[0] // CELL, object_id.shape[1] // CELL)
    for kind, mask in masks.items():
        shares[1 + KINDS.index(kind)] = F.avg_pool2d(torch.from_numpy(mask).float(), CELL)[0]
    shares[0] = 1.0 - shares[1:].sum(dim=0)
    return shares


def soften(
    image: Float[Tensor, "3 H W"], *, rng: np.random.Generator, generator: torch.Generator
) -> Float[Tensor, "3 H W"]:
    """Less detail, stains of colour, another exposure, noise: what separates a decoded frame from a rendered one."""
    height, width = image.shape[-2:]
    if rng.random() < SOFT_SHARE:
        factor = float(rng.uniform(1.0, 3.0))
        small = F.interpolate(
            image[None], size=(round(height / factor), round(width / factor)), mode="bilinear", antialias=True
        )
        image = F.interpolate(small, size=(height, width), mode="bicubic")[0]
    if rng.random() < BLOTCH_SHARE:
        stains = torch.randn(1, 3, height // 16, width // 16, generator=generator) * float(rng.uniform(0.0, 0.06))
        image = image + F.interpolate(stains, size=(height, width), mode="bicubic")[0]
    contrast, brightness = float(rng.uniform(0.9, 1.1)), float(rng.uniform(-0.04, 0.04))
    noise = torch.randn(image.shape, generator=generator) * float(rng.uniform(0.0, 0.03))
    return (0.5 + contrast * (image - 0.5) + brightness + noise).clamp(0.0, 1.0)


def write_report(out: Path, cache: ClipCache, *, training: JudgeTraining, result: TrainingResult) -> None:
    """Held-out accuracy of the saved judge, on rendered clips and on softened ones."""
    judge = ObjectJudge.load(out / "model")
    clips = training.held_out_clips
    report = {
        "steps": result.steps_done,
        "seconds": round(result.seconds),
        "held_out": {
            "clips": clips,
            "rendered": asdict(_accuracy(judge, cache, clips=clips, softened=False)),
            "softened": asdict(_accuracy(judge, cache, clips=clips, softened=True)),
        },
    }
    atomic_write_text(out / REPORT, json.dumps(report, indent=2) + "\n")


def _accuracy(judge: ObjectJudge, cache: ClipCache, *, clips: int, softened: bool) -> ObjectAccuracy:
    """Over held-out clips, from seed 0 on."""

    def read(seed: int) -> Float[Tensor, "N 3 H W"]:
        frames = torch.from_numpy(cache.rgb(seed)).permute(0, 3, 1, 2).float() / 255.0
        if not softened:
            return frames
        rng, generator = np.random.default_rng([seed, 0x50F7]), torch.Generator().manual_seed(seed)
        return torch.stack([soften(frame, rng=rng, generator=generator) for frame in frames])

    seeds: Iterable[int] = range(clips)
    return object_accuracy(judge, ((seed, read(seed), cache.clip(seed).object_id) for seed in seeds))
