"""From a preset to what ``train`` needs: its models as a policy, a judge, and eyes for sample videos."""

import torch
from jaxtyping import Float, UInt8
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vggrpo.generation.first_frame import first_frame_latents
from vggrpo.generation.models import LoadListener, Models, load_models
from vggrpo.generation.options import LoadOptions
from vggrpo.generation.preferences import VideoRanker
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels, Refreshable, TrainingClips
from vggrpo.grpo.processes import join_processes
from vggrpo.grpo.reward_space import LatentRewards, RewardSpace, RgbRewards
from vggrpo.latents import frames_from_video
from vggrpo.presets import Preset, get_preset
from vggrpo.pretraining.alignment_data import CachedEncoder
from vggrpo.pretraining.data import default_cache
from vggrpo.pretraining.filmed_clips import FilmedClips
from vggrpo.pretraining.tuning_clips import CaptionedClips, SteadyWorldClips, pick_captioned_clips
from vggrpo.runtime.device import choose_device, set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents
from vggrpo.worlds import vocabulary
from vggrpo.worlds.clip_decoding import ClipShape


def load_grpo_models(
    config: GrpoConfig, *, listener: LoadListener | None = None, filmed: FilmedClips | None = None
) -> GrpoModels:
    """Load a preset's models for a training. ``filmed`` are the clips of ``captioned_clips``, where there are any.

    Raises:
        UserError: a weight file is missing, damaged or another model's, or the settings contradict each other.
    """
    preset = _sized_preset(config)
    if config.refresh_lgm and config.reward_space != "latent":
        raise UserError("--refresh-lgm re-aligns the latent geometry model, which --reward-space rgb does not use.")
    if config.first_frame is not None and not preset.takes_first_frame:
        raise UserError(f"{preset.name} makes video from text alone: leave out --first-frame.")
    join_processes(choose_device())
    set_threads("background")
    models = load_models(preset, load_options(config), listener=listener)
    if config.refresh_lgm:
        # Φ first: Φ_g then takes a copy of it, and the refresh has its teacher.
        _ = models.geometry
        unmerge_lora(models.latent_geometry)
    return grpo_models(preset, models, config=config, filmed=filmed)


def captioned_clips(config: GrpoConfig) -> FilmedClips | None:
    """What ``--objective sft`` learns from, where it is a folder; None where it is the procedural world, or nothing.

    Raises:
        UserError: the folder gives no clip, or the preset does not know the procedural world and there is no folder.
    """
    preset = get_preset(config.preset)
    if config.objective != "sft":
        return None
    if config.sft_clips is None:
        if preset.closed_vocabulary:
            return None
        raise UserError(
            f"{preset.name} has no clips of its own to learn from: give --sft-clips FOLDER, videos with captions."
        )
    return pick_captioned_clips(
        config.sft_clips, shape=_clip_shape(_sized_preset(config)), count=config.training_captions, seed=config.seed
    )


def load_options(config: GrpoConfig) -> LoadOptions:
    """Where the settings say that weights come from."""
    return LoadOptions(
        model_folder=config.model_folder,
        geometry=config.geometry,
        geometry_weights=config.geometry_weights,
        latent_geometry=config.latent_geometry,
        offline=config.offline,
    )


def grpo_models(
    preset: Preset, models: Models, *, config: GrpoConfig | None = None, filmed: FilmedClips | None = None
) -> GrpoModels:
    """Loaded models of a preset, as the trainer wants them. Refreshes need Φ_g with its LoRA not merged.

    With a latent reward neither the VAE nor Φ is loaded before sample videos or a refresh ask for them.
    """
    config = config or GrpoConfig(preset=preset.name)
    vae = models.vae
    reader = PromptReader(preset, models)
    # Prompts come one by one; the trainer says when they are done.
    models.text.keep_encoder = True

    @torch.no_grad()
    def decode(latents: Latents) -> UInt8[Tensor, "B N H W 3"]:
        return frames_from_video(vae.decode_normalised(latents))

    first_frame = None
    if config.first_frame is not None:
        first_frame = first_frame_latents(config.first_frame, vae, preset=preset)
    rewards = _reward_space(models, config)
    if preset.is_released_model and not _needs_decoder(config):
        vae.release()
    is_refreshable = models.geometry_source.is_loaded and config.reward_space == "latent"
    return GrpoModels(
        transformer=models.transformer,
        embed=reader.embed,
        negative=models.text.embed(preset.negative_prompt),
        check_prompt=reader.check,
        latent_shape=preset.latent_shape,
        rewards=rewards,
        decode=decode,
        fps=preset.fps,
        refreshable=(
            Refreshable(latent_geometry=models.latent_geometry, geometry=models.geometry) if is_refreshable else None
        ),
        first_frame=first_frame,
        rank=_ranker(models, rewards, config) if config.objective == "dpo" else None,
        clips=_training_clips(preset, models, filmed) if config.objective == "sft" else None,
        release_text=models.text.release if preset.is_released_model else _keep,
        release_decoder=vae.release if preset.is_released_model and not _needs_decoder(config) else _keep,
    )


def _keep() -> None:
    """The embedded models are small and quick to have: nothing of them leaves memory."""


def _needs_decoder(config: GrpoConfig) -> bool:
    """Whether every iteration decodes videos."""
    return config.reward_space == "rgb" or config.objective == "dpo"


def _ranker(models: Models, rewards: RewardSpace, config: GrpoConfig) -> VideoRanker:
    if config.preference == "reprojection":
        models.geometry.dense_chunk = config.dense_frames
    return VideoRanker(
        config=config, decode=models.vae.decode_normalised, geometry=models.geometry_of_video, rewards=rewards
    )


def _training_clips(preset: Preset, models: Models, filmed: FilmedClips | None) -> TrainingClips:
    encoder = CachedEncoder(models.vae, cache=default_cache())
    if filmed is not None:
        return CaptionedClips.of(filmed, encoder)
    return SteadyWorldClips(encoder, shape=_clip_shape(preset))


def _clip_shape(preset: Preset) -> ClipShape:
    return ClipShape(num_frames=preset.num_frames, height=preset.height, width=preset.width, fps=preset.fps)


def _sized_preset(config: GrpoConfig) -> Preset:
    return get_preset(config.preset).sized(height=config.height, width=config.width, frames=config.frames)


class PromptReader:
    """Prompts to embeddings, by a preset's rules."""

    def __init__(self, preset: Preset, models: Models) -> None:
        self._preset = preset
        self._text = models.text

    def check(self, prompt: str) -> None:
        """Raise a UserError for a prompt that is too long, or of which the model knows no word."""
        if not self._known(prompt).strip(" ,"):
            raise UserError(f"{self._preset.name} knows no word of the prompt {prompt[:60]!r}; see the About tab.")
        count = self._text.count_tokens(prompt)
        if count > self._preset.max_tokens:
            raise UserError(
                f"The prompt {prompt[:60]!r}… has {count} tokens; {self._preset.name} reads {self._preset.max_tokens}."
            )

    def embed(self, prompt: str) -> Float[Tensor, "1 L D"]:
        """The embedding of the words that the model knows, cached."""
        return self._text.embed(self._known(prompt))

    def _known(self, prompt: str) -> str:
        return vocabulary.known_part(prompt) if self._preset.closed_vocabulary else prompt


def unmerge_lora(model: nn.Module) -> None:
    """Take merged LoRA weights apart again, to train them. The same weights come out in every process and every run."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and getattr(module, "merged", False):
            module.unmerge()


def _reward_space(models: Models, config: GrpoConfig) -> RewardSpace:
    if config.reward_space == "latent":
        models.latent_geometry.geometry_model.dense_chunk = config.dense_frames
        return LatentRewards(latent_geometry=models.latent_geometry, micro_batch=config.reward_batch)
    models.geometry.dense_chunk = config.dense_frames

    return RgbRewards(
        decode=models.vae.decode_normalised, geometry=models.geometry_of_video, micro_batch=config.reward_batch
    )
