"""``train-lgm``: the stitching-layer search (stage 1a), then alignment with LoRA (stage 1b) against the frozen Φ.

The data are pairs of latents and their video: clips of a world (rendered or filmed) through the VAE encoder, mixed with
clips that the video model generated (latents as they left the sampler, video as decoded), which closes the gap between
the two. Φ reads each clip when it is drawn, or has read it before (``Lessons``).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast, overload, runtime_checkable

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor, nn

from vggrpo.latent_geometry.alignment_loss import EMBEDDED_WEIGHTS, AlignmentWeights, Reading, alignment_losses
from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.metrics import GeometryMetrics, clip_metrics, combine
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.latent_geometry.stitching import (
    SEARCH_MEMORY_GIB,
    AlignedClip,
    LayerFit,
    plan_search,
    search_stitching_layer,
    show_errors,
)
from vggrpo.runtime.device import choose_dtype, set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.types import Latents, WorldClip

STITCHING_NAME = "stitching.json"


@dataclass(frozen=True, kw_only=True)
class LgmTraining:
    """Everything that decides the result of ``train-lgm``.

    ``search_clips`` clips of each source are fitted in the layer search, within ``search_memory_gib``, and
    ``test_clips`` measure ε. Each step reads ``clips_per_step`` clips, generated ones with probability
    ``generated_share``, and compares the dense geometry of ``dense_frames`` random frames (the cameras of all).
    ``recompute`` trades time for memory: activations are computed again in the backward pass.

    Φ_g reads z + σ ε with ε ~ N(0, 1) and σ ~ U(0, ``latent_noise``), in units of normalised latents, while Φ reads the
    clean video: what a sampler leaves is never quite clean, and the paper's Φ_g keeps its cameras where
    Φ(decode(z + σ ε)) loses them. Trained on clean latents alone it does not.
    """

    connector: ConnectorConfig
    loop: LoopConfig
    weights: AlignmentWeights = EMBEDDED_WEIGHTS
    lora_rank: int = 64
    lora_alpha: int = 32
    search_clips: int = 64
    test_clips: int = 8
    search_memory_gib: float = SEARCH_MEMORY_GIB
    clips_per_step: int = 1
    dense_frames: int = 5
    generated_share: float = 0.5
    latent_noise: float = 0.4
    bfloat16: bool = True
    recompute: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipPick:
    """A clip of a source, not read yet."""

    source: Sequence[AlignedClip]
    index: int

    def clip(self) -> AlignedClip:
        """Read it."""
        return self.source[self.index]


class PickedClips(Sequence[AlignedClip]):
    """Picks as a sequence that reads a clip each time it is asked for one: the search may pass over it repeatedly."""

    def __init__(self, picks: Sequence[ClipPick]) -> None:
        self._picks = picks

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._picks)

    @overload
    def __getitem__(self, index: int) -> AlignedClip: ...
    @overload
    def __getitem__(self, index: slice) -> "PickedClips": ...
    def __getitem__(self, index: int | slice) -> "AlignedClip | PickedClips":
        """One clip, or a part of the picks."""
        return PickedClips(self._picks[index]) if isinstance(index, slice) else self._picks[index].clip()


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What Φ_g is held to on a clip: Φ's dense reading of ``frames``, its features of ``feature_frames`` (or all)."""

    latents: Latents
    theirs: Reading
    frames: Int[Tensor, " M"]
    feature_frames: Int[Tensor, " m"] | None = None


FrameDraw = Callable[[Int[Tensor, " n"]], Int[Tensor, " M"]]
"""Chooses among the frames whose dense geometry is at hand, in ascending order."""


@runtime_checkable
class Lessons(Protocol):
    """Φ's readings of clips: made when asked for, or read from a cache."""

    def lesson(self, pick: ClipPick, *, draw: FrameDraw) -> Lesson:
        """A clip's latents with Φ's reading of the frames that ``draw`` chooses."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReadNow:
    """Φ reads every clip that is drawn."""

    teacher: GeometryModel

    def lesson(self, pick: ClipPick, *, draw: FrameDraw) -> Lesson:
        """Any frames may be drawn."""
        clip = pick.clip()
        return read_lesson(self.teacher, clip, frames=draw(torch.arange(clip.images.shape[1])))


@dataclass(frozen=True, kw_only=True)
class AlignmentData:
    """Pairs of latents and video by index (read when asked for), batch axis 1. ``generated`` may be empty."""

    world: Sequence[AlignedClip]
    generated: Sequence[AlignedClip] = ()

    def draw(self, step: Step, *, generated_share: float) -> ClipPick:
        """A clip, from the step's own random numbers."""
        wants_generated = step.rng.random() < generated_share
        source = self.generated if len(self.generated) and (wants_generated or not len(self.world)) else self.world
        return ClipPick(source=source, index=int(step.rng.integers(len(source))))

    def picks(self) -> tuple[ClipPick, ...]:
        """Every clip of both sources."""
        return tuple(
            ClipPick(source=source, index=index)
            for source in (self.world, self.generated)
            for index in range(len(source))
        )

    def for_search(self, *, fitted: int, tested: int) -> "SearchClips":
        """The first clips of both sources, the last of which only measure the error."""
        fit, test = [], []
        for source in (self.world, self.generated):
            count = min(len(source), fitted + tested)
            border = max(count - tested, count // 2)
            fit += [ClipPick(source=source, index=index) for index in range(border)]
            test += [ClipPick(source=source, index=index) for index in range(border, count)]
        return SearchClips(fit=PickedClips(fit), test=PickedClips(test))


@dataclass(frozen=True, kw_only=True)
class SearchClips:
    """Clips to fit the connectors on, and others to compare them on."""

    fit: Sequence[AlignedClip]
    test: Sequence[AlignedClip]


def train_lgm(
    teacher: GeometryModel,
    data: AlignmentData,
    *,
    training: LgmTraining,
    out: Path,
    resume: bool = False,
    lessons: Lessons | None = None,
) -> TrainingResult:
    """Make Φ_g out of the frozen ``teacher``; checkpoints and metrics in ``out``, the model in ``out/model``.

    It is trained where the teacher is. A resumed run takes the cut that the first one chose.

    Raises:
        UserError: there is no data, or ``out`` holds another run or cannot be written.
    """
    if not len(data.world) + len(data.generated):
        raise UserError("train-lgm was given no clips: it needs world clips, generated clips, or both")
    set_threads("background")
    torch.manual_seed(training.loop.seed)
    device = device_of(teacher)
    model = stitched_model(teacher, data, training=training, out=out, resume=resume).to(device)
    if training.bfloat16 and choose_dtype(device) == torch.bfloat16:
        hold_in_bfloat16(model)
    model.geometry_model.checkpoint_blocks(enabled=training.recompute)
    readings = ReadNow(teacher=teacher) if lessons is None else lessons
    loop = TrainingLoop({"latent_geometry": model}, training.loop, out)

    def losses(step: Step) -> dict[str, Tensor]:
        picks = [data.draw(step, generated_share=training.generated_share) for _ in range(training.clips_per_step)]

        def draw(available: Int[Tensor, " n"]) -> Int[Tensor, " M"]:
            count = len(available)
            chosen = step.rng.choice(count, size=min(training.dense_frames, count), replace=False)
            return available[torch.from_numpy(chosen).sort().values]

        lessons = [disturbed(readings.lesson(pick, draw=draw), step=step, most=training.latent_noise) for pick in picks]
        clips = [lesson_losses(model, lesson, weights=training.weights, device=device) for lesson in lessons]
        return {name: torch.stack([one[name] for one in clips]).mean() for name in clips[0]}

    result = loop.run(losses, resume=resume)
    if result.finished:
        model.float()
        loop.use_masters()
        loop.use_ema()
        model.save(out / "model")
    return result


def device_of(model: GeometryModel | nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(cast(nn.Module, model).parameters()).device


@torch.no_grad()
def read_lesson(teacher: GeometryModel, clip: AlignedClip, *, frames: Int[Tensor, " M"]) -> Lesson:
    """Φ's reading of a clip, dense geometry on ``frames``; on the teacher's device."""
    device = device_of(teacher)
    images = clip.images.to(device)
    features = teacher.finish_encoder(teacher.encode_tokens(images, upto=0), start=0)
    decoded = teacher.decode_frames(features, grid=teacher.grid_of(images), frames=frames.to(device))
    return Lesson(latents=clip.latents, theirs=Reading(decoded=decoded, features=features), frames=frames)


def disturbed(lesson: Lesson, *, step: Step, most: float) -> Lesson:
    """The lesson with noise on its latents, of a strength between 0 and ``most`` that the step's numbers decide."""
    if most == 0.0:
        return lesson
    clean = lesson.latents.tensor
    noise = torch.randn(clean.shape, generator=step.generator).to(clean)
    return replace(lesson, latents=Latents(tensor=clean + step.rng.uniform(0.0, most) * noise))


def lesson_losses(
    model: LatentGeometryModel, lesson: Lesson, *, weights: AlignmentWeights, device: torch.device
) -> dict[str, Tensor]:
    """Alignment losses of Φ_g on one clip that Φ has read."""
    latents = Latents(tensor=lesson.latents.tensor.to(device))
    features = model.features(latents)
    decoded = model.decode_frames(features, grid=model.grid_of(latents), frames=lesson.frames.to(device))
    chosen = lesson.feature_frames
    compared = features if chosen is None else features.index_select(1, chosen.to(device))
    return alignment_losses(Reading(decoded=decoded, features=compared), teacher=lesson.theirs, weights=weights)


def clip_losses(
    model: LatentGeometryModel,
    clip: AlignedClip,
    *,
    teacher: GeometryModel,
    frames: Int[Tensor, " M"],
    weights: AlignmentWeights,
) -> dict[str, Tensor]:
    """Alignment losses of one batch of clips that Φ reads now, dense terms on ``frames``."""
    lesson = read_lesson(teacher, clip, frames=frames)
    return lesson_losses(model, lesson, weights=weights, device=device_of(teacher))


def stitched_model(
    teacher: GeometryModel, data: AlignmentData, *, training: LgmTraining, out: Path, resume: bool
) -> LatentGeometryModel:
    """Stage 1a: search the layer, print and write the errors, initialise the connector.

    On resume only the cut is read back: the checkpoint holds the connector.
    """
    record = out / STITCHING_NAME
    if resume and record.is_file():
        block = int(json.loads(record.read_text())["block"])
        return LatentGeometryModel.stitched(
            teacher,
            blank_fit(teacher, block=block, connector=training.connector),
            connector=training.connector,
            rank=training.lora_rank,
            alpha=training.lora_alpha,
        )
    clips = data.for_search(fitted=training.search_clips, tested=training.test_clips)
    limit = training.search_memory_gib
    if len(clips.fit):
        plan = plan_search(teacher, training.connector, grid=teacher.grid_of(clips.fit[0].images), limit_gib=limit)
        Console(stderr=True).print(plan.describe())
    fits = search_stitching_layer(teacher, training.connector, fit=clips.fit, test=clips.test, memory_gib=limit)
    best = fits[0]
    show_errors(fits, chosen=best.block)
    out.mkdir(parents=True, exist_ok=True)
    errors = {str(fit.block): round(fit.error, 6) for fit in sorted(fits, key=lambda one: one.block)}
    atomic_write_text(record, json.dumps({"block": best.block, "configuration_error": errors}, indent=2) + "\n")
    return LatentGeometryModel.stitched(
        teacher, best, connector=training.connector, rank=training.lora_rank, alpha=training.lora_alpha
    )


def blank_fit(teacher: GeometryModel, *, block: int, connector: ConnectorConfig) -> LayerFit:
    """A fit of zeros, for a model whose weights come from a checkpoint."""
    return LayerFit(
        block=block,
        error=float("nan"),
        weight=torch.zeros(teacher.token_dim, connector.patch_features),
        bias=torch.zeros(teacher.token_dim),
        prefix=torch.zeros(teacher.num_prefix_tokens, teacher.token_dim),
    )


def hold_in_bfloat16(model: LatentGeometryModel) -> None:
    """bfloat16 weights, except the heads that the geometry model keeps in full precision."""
    model.connector.to(torch.bfloat16)
    model.geometry_model.to_bfloat16()


@torch.no_grad()
def evaluate_latent_geometry(model: LatentGeometryModel, clips: Iterable[tuple[Latents, WorldClip]]) -> GeometryMetrics:
    """Φ_g on the latents of world clips against their exact truth; the same report as for Φ."""
    return combine([clip_metrics(model(latents), clip=clip) for latents, clip in clips])
