"""From a preset to what ``train`` needs: its models as a policy, a judge, and eyes for sample videos."""

import torch
from jaxtyping import Float, UInt8
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from vggrpo.generation.models import Models, load_models
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.models import GrpoModels, Refreshable
from vggrpo.grpo.processes import join_processes
from vggrpo.grpo.reward_space import LatentRewards, RewardSpace, RgbRewards
from vggrpo.latents import frames_from_video
from vggrpo.presets import Preset, get_preset
from vggrpo.runtime.device import choose_device, set_threads
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents, SceneGeometry
from vggrpo.worlds import vocabulary


def load_grpo_models(config: GrpoConfig) -> GrpoModels:
    """Load a preset's models for a training. Raises a UserError for a damaged weight file or an impossible wish."""
    preset = get_preset(config.preset)
    if config.refresh_lgm and config.reward_space != "latent":
        raise UserError("--refresh-lgm re-aligns the latent geometry model, which --reward-space rgb does not use.")
    join_processes(choose_device())
    set_threads("background")
    models = load_models(preset)
    if config.refresh_lgm:
        unmerge_lora(models.latent_geometry)
    return grpo_models(preset, models, reward_space=config.reward_space)


def grpo_models(preset: Preset, models: Models, *, reward_space: str = "latent") -> GrpoModels:
    """Loaded models of a preset, as the trainer wants them. Refreshes need Φ_g with its LoRA not merged."""
    vae = models.vae
    cells = vae.model.config["scale_factor_spatial"]
    reader = PromptReader(preset, models)

    @torch.no_grad()
    def decode(latents: Latents) -> UInt8[Tensor, "B N H W 3"]:
        return frames_from_video(vae.decode_normalised(latents))

    return GrpoModels(
        transformer=models.transformer,
        embed=reader.embed,
        negative=models.text.embed(""),
        check_prompt=reader.check,
        latent_shape=(vae.model.config["z_dim"], preset.latent_frames, preset.height // cells, preset.width // cells),
        rewards=_reward_space(models, reward_space),
        decode=decode,
        fps=preset.fps,
        refreshable=Refreshable(latent_geometry=models.latent_geometry, geometry=models.geometry),
    )


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


def _reward_space(models: Models, name: str) -> RewardSpace:
    if name == "latent":
        return LatentRewards(latent_geometry=models.latent_geometry)

    def read(video: Float[Tensor, "B 3 N H W"]) -> SceneGeometry:
        images = (video.transpose(1, 2).to(models.device) + 1.0) / 2.0
        return models.geometry.geometry(images)

    return RgbRewards(decode=models.vae.decode_normalised, geometry=read)
