"""``train-lgm``: the stitching-layer search (stage 1a), then alignment with LoRA (stage 1b) against the frozen Φ.

The data are pairs of latents and their video: world clips through the VAE encoder, mixed with clips that the video
model generated (latents as they left the sampler, video as decoded), which closes the gap between the two.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vggrpo.latent_geometry.alignment_loss import EMBEDDED_WEIGHTS, AlignmentWeights, Reading, alignment_losses
from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.metrics import GeometryMetrics, combine, geometry_metrics
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.latent_geometry.stitching import AlignedClip, LayerFit, search_stitching_layer, show_errors
from vggrpo.runtime.device import choose_dtype, set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.types import Latents, WorldClip

STITCHING_NAME = "stitching.json"


@dataclass(frozen=True, kw_only=True)
class LgmTraining:
    """Everything that decides the result of ``train-lgm``.

    ``search_clips`` clips of each source are fitted in the layer search and ``test_clips`` measure ε. Each step reads
    ``clips_per_step`` clips, generated ones with probability ``generated_share``, and compares the dense geometry of
    ``dense_frames`` random frames (the cameras of all).
    """

    connector: ConnectorConfig
    loop: LoopConfig
    weights: AlignmentWeights = EMBEDDED_WEIGHTS
    lora_rank: int = 64
    lora_alpha: int = 32
    search_clips: int = 64
    test_clips: int = 8
    clips_per_step: int = 1
    dense_frames: int = 5
    generated_share: float = 0.5
    bfloat16: bool = True


@dataclass(frozen=True, kw_only=True)
class AlignmentData:
    """Pairs of latents and video by index (read when asked for), batch axis 1. ``generated`` may be empty."""

    world: Sequence[AlignedClip]
    generated: Sequence[AlignedClip] = ()

    def draw(self, step: Step, *, generated_share: float) -> AlignedClip:
        """A clip, from the step's own random numbers."""
        wants_generated = step.rng.random() < generated_share
        source = self.generated if len(self.generated) and (wants_generated or not len(self.world)) else self.world
        return source[int(step.rng.integers(len(source)))]

    def for_search(self, *, fitted: int, tested: int) -> "SearchClips":
        """The first clips of both sources, the last of which only measure the error."""
        fit, test = [], []
        for source in (self.world, self.generated):
            count = min(len(source), fitted + tested)
            border = max(count - tested, count // 2)
            fit += [(source, index) for index in range(border)]
            test += [(source, index) for index in range(border, count)]
        return SearchClips(fit=(source[i] for source, i in fit), test=(source[i] for source, i in test))


@dataclass(frozen=True, kw_only=True)
class SearchClips:
    """Clips to fit the connectors on, and others to compare them on."""

    fit: Iterable[AlignedClip]
    test: Iterable[AlignedClip]


def train_lgm(
    teacher: GeometryModel, data: AlignmentData, *, training: LgmTraining, out: Path, resume: bool = False
) -> TrainingResult:
    """Make Φ_g out of the frozen ``teacher``; checkpoints and metrics in ``out``, the model in ``out/model``.

    A resumed run takes the cut that the first one chose.

    Raises:
        UserError: there is no data, or ``out`` holds another run or cannot be written.
    """
    if not len(data.world) + len(data.generated):
        raise UserError("train-lgm was given no clips: it needs world clips, generated clips, or both")
    set_threads("background")
    torch.manual_seed(training.loop.seed)
    model = stitched_model(teacher, data, training=training, out=out, resume=resume)
    if training.bfloat16 and choose_dtype(torch.device("cpu")) == torch.bfloat16:
        hold_in_bfloat16(model)
    loop = TrainingLoop({"latent_geometry": model}, training.loop, out)

    def losses(step: Step) -> dict[str, torch.Tensor]:
        clips = [data.draw(step, generated_share=training.generated_share) for _ in range(training.clips_per_step)]
        clip = AlignedClip(
            latents=Latents(tensor=torch.cat([one.latents.tensor for one in clips])),
            images=torch.cat([one.images for one in clips]),
        )
        count = clip.images.shape[1]
        chosen = step.rng.choice(count, size=min(training.dense_frames, count), replace=False)
        frames = torch.from_numpy(chosen).sort().values
        return clip_losses(model, clip, teacher=teacher, frames=frames, weights=training.weights)

    result = loop.run(losses, resume=resume)
    if result.finished:
        model.float()
        loop.use_masters()
        loop.use_ema()
        model.save(out / "model")
    return result


def clip_losses(
    model: LatentGeometryModel,
    clip: AlignedClip,
    *,
    teacher: GeometryModel,
    frames: torch.Tensor,
    weights: AlignmentWeights,
) -> dict[str, torch.Tensor]:
    """Alignment losses of one batch of clips, dense terms on ``frames``."""
    grid = model.grid_of(clip.latents)
    with torch.no_grad():
        features = teacher.finish_encoder(teacher.encode_tokens(clip.images, upto=0), start=0)
        theirs = Reading(decoded=teacher.decode_frames(features, grid=grid, frames=frames), features=features)
    features = model.features(clip.latents)
    ours = Reading(decoded=model.decode_frames(features, grid=grid, frames=frames), features=features)
    return alignment_losses(ours, teacher=theirs, weights=weights)


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
    fits = search_stitching_layer(teacher, training.connector, fit=clips.fit, test=clips.test)
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
    results = []
    for latents, clip in clips:
        moving = torch.from_numpy(clip.moving)[None]
        results.append(geometry_metrics(model(latents), true=clip.geometry.to_scene(), moving=moving))
    return combine(results)
