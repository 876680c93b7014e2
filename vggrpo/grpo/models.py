"""What a training is given: models as callables, so that ``grpo`` knows no preset and tests can bring a toy reward."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vggrpo.grpo.preference import Ranking
from vggrpo.grpo.reward_space import RewardSpace
from vggrpo.latent_geometry.alignment_loss import EMBEDDED_WEIGHTS, AlignmentWeights
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.model import FOUNDATION_PREFIX, LatentGeometryModel
from vggrpo.policy.sampling import Conditions
from vggrpo.types import Latents


@dataclass(frozen=True, kw_only=True)
class Refreshable:
    """Φ_g with its LoRA apart (merged weights cannot be trained), and the frozen Φ that it follows."""

    latent_geometry: LatentGeometryModel
    geometry: GeometryModel
    weights: AlignmentWeights = EMBEDDED_WEIGHTS
    dense_frames: int = 5
    """Frames of a video whose dense geometry a step compares; the cameras of all."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """What a refresh changes: connector, prefix tokens and LoRA."""
        named = self.latent_geometry.named_parameters()
        return {name: p for name, p in named if not name.startswith(FOUNDATION_PREFIX) or ".lora_" in name}


@runtime_checkable
class TrainingClips(Protocol):
    """True clips to imitate, by their captions."""

    def latents(self, caption: str, *, number: int) -> Latents | None:
        """One clip with this caption; ``number`` counts on where several have it. None if it cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class GrpoModels:
    """Everything frozen and in evaluation mode; the trainer puts the adapter on ``transformer``."""

    transformer: WanTransformer3DModel
    embed: Callable[[str], Float[Tensor, "1 L D"]]
    """Text to embeddings, cached."""
    negative: Float[Tensor, "1 L D"]
    """Embedding of the empty prompt, for guidance."""
    check_prompt: Callable[[str], None]
    """Raises a UserError for a prompt that cannot be used; costs nothing."""
    latent_shape: tuple[int, int, int, int]
    """C, T, h, w of one video."""
    rewards: RewardSpace
    decode: Callable[[Latents], UInt8[Tensor, "B N H W 3"]]
    """Latents to frames, for sample videos only."""
    fps: int
    refreshable: Refreshable | None = None
    """Φ_g and Φ, where Φ_g can be re-aligned during the training."""
    first_frame: Float[Tensor, "1 C 1 h w"] | None = None
    """Normalised latents of the picture that every video starts from, where one is given."""
    rank: Callable[[Latents], Ranking] | None = None
    """Who prefers which videos (``--objective dpo``)."""
    clips: TrainingClips | None = None
    """What is imitated (``--objective sft``)."""
    release_text: Callable[[], None] = lambda: None
    """Called when every prompt of the run is embedded: the text encoder may leave memory."""
    release_decoder: Callable[[], None] = lambda: None
    """Called when sample videos are decoded: the VAE may leave memory, where the reward does not decode."""

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return self.transformer.device

    def conditions(self, *prompts: str, guidance: float, together: bool = True) -> Conditions:
        """Embeddings of some prompts, one row each; ``together`` as in ``Conditions``."""
        text = torch.cat([self.embed(prompt) for prompt in prompts])
        given = self.first_frame
        first_frame = None if given is None else given.expand(len(prompts), -1, -1, -1, -1)
        return Conditions(
            text=text, negative=self.negative, guidance=guidance, first_frame=first_frame, together=together
        )
