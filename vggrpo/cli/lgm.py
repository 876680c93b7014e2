"""``train-lgm``: which models and clips it trains on, in the order in which memory allows.

The video model generates its clips and leaves; the VAE encodes the others and leaves; then Φ reads them, is cut, and
Φ_g is trained. Every stage keeps what it made on disk, so that a stop loses at most one clip.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vggrpo.cli.commands import TrainLgm
from vggrpo.cli.model_choice import load_listener
from vggrpo.cli.terminal import Outcome, PhaseProgress, note
from vggrpo.cli.training_run import begin_run, loop_of, require_folder, training_outcome
from vggrpo.grpo.defaults import training_defaults
from vggrpo.presets import Preset, get_preset
from vggrpo.runtime.checkpoint_folder import checkpoint_folders
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text, require_writable
from vggrpo.runtime.training import LoopConfig

if TYPE_CHECKING:
    from torch import nn

    from vggrpo.generation.models import Models
    from vggrpo.generation.options import LoadOptions
    from vggrpo.latent_geometry.foundation.base import GeometryModel
    from vggrpo.latent_geometry.stitching import AlignedClip
    from vggrpo.latent_geometry.train import AlignmentData, LgmTraining
    from vggrpo.pretraining.filmed_clips import FilmedClips
    from vggrpo.worlds.clip_decoding import ClipShape
    from vggrpo.worlds.video_folder import VideoListing

LGM_LOOP = LoopConfig(steps=1000, learning_rate=2e-4, ema_decay=0.99, checkpoint_every=100)
"""The paper's learning rate and schedule; the number of steps is that of the embedded model."""
EPOCHS = 20
"""The paper's; released models are trained so long unless --steps says otherwise."""
PIPELINE, GEOMETRY = Path("runs/video/pipeline"), Path("runs/geometry/model")
"""Where `pretrain` leaves the embedded models."""
EMBEDDED_STEPS, RELEASED_STEPS = 10, 30
"""Denoising steps of generated clips."""
TAUGHT_FRAMES = 8
"""Of each clip at a released model's size; training draws five of them a step."""
MOST_LATENT_NOISE = 10.0
MODELS_NAME = "models.json"
"""What a run folder was begun with: a resumed run must have the same."""
SHOWN_SKIPPED = 20


def run(command: TrainLgm) -> Outcome:
    """Check what was asked for, gather clips, train, export."""
    preset = _sized_preset(command)
    options = _load_options(command, preset)
    _require_possible(command, preset)
    require_writable(command.out)
    loop = loop_of(command, LGM_LOOP)
    listing = _listing(command, preset)
    prompts = _prompts(command, preset, listing)
    import torch

    from vggrpo.generation.models import load_models
    from vggrpo.runtime.device import set_threads

    set_threads("background")
    with PhaseProgress() as progress:
        models = load_models(preset, options, listener=load_listener(progress))
        teacher = models.geometry
    job = _Job(command=command, preset=preset, models=models, teacher=teacher)
    job.require_room(generated=len(prompts))
    try:
        return job.run(listing=listing, prompts=prompts, loop=loop)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU is out of memory at {preset.num_frames} frames of {preset.width}×{preset.height}: give fewer "
            "--frames, or a smaller --height and --width. What was prepared is kept."
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A checked command with its models."""

    command: TrainLgm
    preset: Preset
    models: "Models"
    teacher: "GeometryModel"

    def require_room(self, *, generated: int) -> None:
        """Say what the caches may take; refuse what exceeds the limit or the disk."""
        from vggrpo.latent_geometry.pixel_grid import geometry_size
        from vggrpo.pretraining.cache_plan import ClipSizes, plan_cache

        preset, patch = self.preset, self.teacher.patch_size
        image = geometry_size(preset.height, preset.width, patch_size=patch)
        sizes = ClipSizes(
            video=(preset.num_frames, preset.height, preset.width),
            latents=preset.latent_shape,
            image=image,
            tokens=(image[0] // patch) * (image[1] // patch),
            token_dim=self.teacher.token_dim,
        )
        clips = self.command.clips if self.command.videos or not preset.is_released_model else 0
        plan = plan_cache(sizes, clips=clips, generated=generated, taught=self._taught_frames)
        note(plan.describe(self._cache))
        plan.require_room(self._cache, limit_gib=self.command.cache_gib)

    def run(self, *, listing: "VideoListing | None", prompts: Sequence[str], loop: LoopConfig) -> Outcome:
        """Clips, readings, training, export."""
        from vggrpo.latent_geometry.provenance import encoder_sketch
        from vggrpo.latent_geometry.train import AlignmentData, train_lgm
        from vggrpo.pretraining.reading_cache import CachedReadings
        from vggrpo.runtime.weights_sketch import weights_sketch

        command, models = self.command, self.models
        self._require_same_models(weights_sketch(models.vae.model))
        vae_sketch = encoder_sketch(models.vae.model)
        generated = self._generated(prompts)
        models.release("transformer")
        models.release("text")
        filmed = self._filmed(listing)
        data = AlignmentData(world=self._world(filmed), generated=generated)
        if self.preset.is_released_model:
            # Every latent is on disk by now.
            models.release("vae")
        training = self._training(loop, data)
        lessons = None
        if self._taught_frames:
            lessons = CachedReadings(self.teacher, cache=self._cache, taught_frames=self._taught_frames)
            lessons.fill(data.picks())
        begin_run(command.out, training, resume=command.resume)
        result = train_lgm(
            self.teacher, data, training=training, out=command.out, resume=command.resume, lessons=lessons
        )
        if result.finished:
            self._export(data, filmed, vae_sketch=vae_sketch, training=training)
        return self._outcome(training_outcome(result, command.out), filmed)

    @property
    def _cache(self) -> Path:
        """Where latents and readings are kept."""
        from vggrpo.pretraining.data import default_cache

        return self.command.cache or default_cache()

    @property
    def _taught_frames(self) -> int:
        """How many frames of a clip Φ's reading is kept of; 0: none."""
        asked = self.command.taught_frames
        default = TAUGHT_FRAMES if self.preset.is_released_model else 0
        return min(default if asked is None else asked, self.preset.num_frames)

    def _generated(self, prompts: Sequence[str]) -> "Sequence[AlignedClip]":
        """Clips of the video model itself, kept beside the run so that ``--resume`` finds them."""
        if not prompts:
            return ()
        from vggrpo.pretraining.generated_clips import SamplerSettings, generate_clips

        preset, steps = self.preset, self.command.generated_steps
        settings = SamplerSettings(
            steps=steps or (RELEASED_STEPS if preset.is_released_model else EMBEDDED_STEPS),
            guidance=preset.guidance,
            shift=preset.flow_shift,
            num_frames=preset.num_frames,
            height=preset.height,
            width=preset.width,
            negative_prompt=preset.negative_prompt,
        )
        return generate_clips(
            self.models.transformer,
            self.models.text,
            self.models.vae,
            prompts=prompts,
            folder=self.command.out / "generated",
            settings=settings,
            patch_size=self.teacher.patch_size,
        )

    def _filmed(self, listing: "VideoListing | None") -> "FilmedClips | None":
        """Real clips, their latents in the cache; the list of what was skipped in the run folder."""
        if listing is None:
            return None
        from vggrpo.pretraining.alignment_data import CachedEncoder
        from vggrpo.pretraining.filmed_clips import encode_filmed_clips

        filmed = encode_filmed_clips(
            listing,
            CachedEncoder(self.models.vae, cache=self._cache),
            shape=_shape(self.preset),
            count=self.command.clips,
            seed=self.command.seed,
        )
        filmed.write(self.command.out)
        note(filmed.summary())
        return filmed

    def _world(self, filmed: "FilmedClips | None") -> "Sequence[AlignedClip]":
        """Clips to encode: the filmed ones, or those of the procedural world that the embedded models know."""
        from vggrpo.pretraining.alignment_data import CachedEncoder, EncodedClips, world_clips
        from vggrpo.pretraining.data import ClipCache
        from vggrpo.pretraining.filmed_clips import filmed_frames

        preset, vae, patch = self.preset, self.models.vae, self.teacher.patch_size
        if filmed is not None:
            return EncodedClips(filmed_frames(filmed), CachedEncoder(vae, cache=self._cache), patch_size=patch)
        if preset.is_released_model:
            return ()
        clips = ClipCache(folder=self._cache, num_frames=preset.num_frames, size=preset.height)
        return world_clips(clips, vae, count=self.command.clips, patch_size=patch, folder=self._cache)

    def _training(self, loop: LoopConfig, data: "AlignmentData") -> "LgmTraining":
        """The embedded models' settings, or the paper's for released ones."""
        from vggrpo.latent_geometry.alignment_loss import AlignmentWeights
        from vggrpo.latent_geometry.connector import ConnectorConfig
        from vggrpo.latent_geometry.train import LgmTraining

        vae = self.models.vae
        connector = ConnectorConfig.for_vae(
            latent_channels=vae.z_dim, vae_compression=vae.spatial_factor, token_dim=self.teacher.token_dim
        )
        training = LgmTraining(
            connector=connector,
            loop=loop,
            search_memory_gib=self.command.search_memory_gib,
            latent_noise=self.command.latent_noise,
        )
        if not self.preset.is_released_model:
            return training
        steps = loop.steps if self.command.steps else EPOCHS * len(data.picks())
        return replace(training, loop=replace(loop, steps=steps), weights=AlignmentWeights(), recompute=True)

    def _require_same_models(self, vae_sketch: str) -> None:
        """A resumed run goes on with what it began with. Raises a UserError that says what differs."""
        from vggrpo.runtime.weights_sketch import weights_sketch

        preset, path = self.preset, self.command.out / MODELS_NAME
        now = {
            "preset": preset.name,
            "video VAE": vae_sketch,
            "geometry model": weights_sketch(cast("nn.Module", self.teacher)),
            "size": f"{preset.num_frames} frames of {preset.width}×{preset.height}",
        }
        if self.command.resume and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if different := [name for name, value in now.items() if before.get(name) != value]:
                raise UserError(
                    f"{self.command.out} was begun with another {' and another '.join(different)}: resume it with the "
                    "same options, or choose another output folder."
                )
        self.command.out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(now, indent=2, ensure_ascii=False) + "\n")

    def _export(
        self, data: "AlignmentData", filmed: "FilmedClips | None", *, vae_sketch: str, training: "LgmTraining"
    ) -> None:
        """Put beside the weights what they were trained on."""
        from vggrpo.latent_geometry.provenance import TrainedOn, write_trained_on
        from vggrpo.latent_geometry.train import STITCHING_NAME
        from vggrpo.runtime.weights_sketch import weights_sketch

        preset, out = self.preset, self.command.out
        stitching = json.loads((out / STITCHING_NAME).read_text(encoding="utf-8"))
        record = TrainedOn(
            preset=preset.name,
            geometry=self._geometry_name,
            vae=vae_sketch,
            foundation=weights_sketch(cast("nn.Module", self.teacher)),
            block=stitching["block"],
            configuration_error=stitching["configuration_error"][str(stitching["block"])],
            height=preset.height,
            width=preset.width,
            num_frames=preset.num_frames,
            fps=preset.fps,
            world_clips=len(data.world),
            generated_clips=len(data.generated),
            videos="" if filmed is None else filmed.summary(),
            steps=training.loop.steps,
            seed=training.loop.seed,
        )
        write_trained_on(out / "model", record)

    @property
    def _geometry_name(self) -> str:
        """The name of Φ's architecture."""
        from vggrpo.latent_geometry.foundation.registry import GEOMETRY_MODELS

        asked = self.command.geometry
        return asked if asked is not None and asked in GEOMETRY_MODELS else self.preset.geometry

    def _outcome(self, outcome: Outcome, filmed: "FilmedClips | None") -> Outcome:
        """What came out, with the videos that were used and skipped."""
        if filmed is None:
            return outcome
        videos = {
            "clips": len(filmed.clips),
            "skipped": len(filmed.skipped),
            "first_skipped": [{"video": one.name, "reason": one.reason} for one in filmed.skipped[:SHOWN_SKIPPED]],
        }
        return Outcome(result={**outcome.result, "videos": videos}, shown=f"{outcome.shown}; {filmed.summary()}")


def _sized_preset(command: TrainLgm) -> Preset:
    """The preset at the asked size; what is not asked for is the size that `train` draws videos at."""
    preset = get_preset(command.preset)
    usual = training_defaults(preset.name)
    return preset.sized(
        height=command.height or usual.height, width=command.width or usual.width, frames=command.frames or usual.frames
    )


def _load_options(command: TrainLgm, preset: Preset) -> "LoadOptions":
    """Where the models come from. ``--geometry`` names one, or is the folder of one."""
    from vggrpo.generation.options import LoadOptions
    from vggrpo.latent_geometry.foundation.registry import GEOMETRY_MODELS, geometry_info

    folder, name, weights = command.model_folder, command.geometry, command.geometry_weights
    if name is not None and name not in GEOMETRY_MODELS and (Path(name).exists() or "/" in name):
        if weights is not None:
            raise UserError("--geometry is a folder and --geometry-weights another: give one of them.")
        weights, name = Path(name), None
    if preset.folders is not None:
        folder = folder or PIPELINE
        weights = weights or (GEOMETRY if name is None else None)
        require_folder(folder, made_by="pretrain video")
    if name is None and weights is not None and not preset.is_released_model:
        require_folder(weights, made_by="pretrain geometry")
    for path in (folder, weights):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    if not geometry_info(name or preset.geometry).stitchable:
        raise UserError(f"{name} cannot be stitched to latents: choose any4d or vggt.")
    return LoadOptions(model_folder=folder, offline=command.offline, geometry=name, geometry_weights=weights)


def _require_possible(command: TrainLgm, preset: Preset) -> None:
    """Raise a UserError for what can be seen to be wrong before anything is loaded."""
    if command.clips < 1 or command.generated_clips < 0:
        raise UserError("train-lgm needs at least one clip, and no negative number of generated ones.")
    if not 0.0 <= command.latent_noise <= MOST_LATENT_NOISE:
        raise UserError(f"The latent noise is {command.latent_noise}; give 0 to {MOST_LATENT_NOISE:g}.")
    if command.taught_frames is not None and command.taught_frames < 0:
        raise UserError(f"{command.taught_frames} taught frames were asked for; give 0 (none are kept) or more.")
    if command.generated_steps is not None and command.generated_steps < 1:
        raise UserError(f"{command.generated_steps} denoising steps were asked for; give at least 1.")
    if preset.is_released_model and command.videos is None and not command.generated_clips:
        raise UserError(f"{preset.name} has no clips to align on: give --videos FOLDER, or --generated-clips.")
    if command.videos is None and (command.captions is not None or command.layout != "auto"):
        raise UserError("--captions and --layout describe the folder of --videos, which was not given.")
    if checkpoint_folders(command.out) and not command.resume:
        raise UserError(f"{command.out} already holds a training run: add --resume, or choose another output folder.")


def _shape(preset: Preset) -> "ClipShape":
    from vggrpo.worlds.clip_decoding import ClipShape

    return ClipShape(num_frames=preset.num_frames, height=preset.height, width=preset.width, fps=preset.fps)


def _listing(command: TrainLgm, preset: Preset) -> "VideoListing | None":
    """What the folder of videos holds."""
    if command.videos is None:
        return None
    from vggrpo.worlds.video_layouts import list_videos

    return list_videos(command.videos, shape=_shape(preset), layout=command.layout, captions=command.captions)


def _prompts(command: TrainLgm, preset: Preset, listing: "VideoListing | None") -> tuple[str, ...]:
    """One prompt a generated clip: of the file, else captions of the world that the preset knows, else of the videos.

    Fewer prompts than clips come round again, with other seeds.
    """
    count = command.generated_clips
    if not count:
        return ()
    if command.prompts is not None:
        from vggrpo.grpo.prompts import read_prompts

        given = read_prompts(command.prompts)
    elif preset.closed_vocabulary:
        from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene

        given = tuple(sample_scene(FIRST_TRAINING_SEED + index).caption for index in range(count))
    else:
        sources = () if listing is None else listing.sources
        given = tuple(dict.fromkeys(source.caption for source in sources if source.caption))
    if not given:
        raise UserError(
            f"There are no prompts for {count} generated clips, for the videos have no captions: give --prompts FILE, "
            "captions, or --generated-clips 0."
        )
    return tuple(given[index % len(given)] for index in range(count))
