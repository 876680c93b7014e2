"""The video model: a genuine ``WanPipeline`` folder, taken apart into what a policy needs.

Text becomes embeddings once and is cached; the VAE is not loaded here (``vggrpo.latents`` owns it), so a policy whose
reward is latent never carries it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from vggrpo.policy.schedule import TIMESTEPS


@dataclass(frozen=True, kw_only=True)
class TextConditioner:
    """UMT5 text to the embeddings that Wan is conditioned on: zero after the true length, padded to ``max_tokens``."""

    tokenizer: PreTrainedTokenizerBase
    encoder: UMT5EncoderModel
    max_tokens: int
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: torch.device, max_tokens: int) -> "TextConditioner":
        """Load tokenizer and text encoder from a pipeline folder."""
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = UMT5EncoderModel.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True, local_files_only=True
        )
        encoder.to(device).eval().requires_grad_(requires_grad=False)
        return cls(tokenizer=tokenizer, encoder=encoder, max_tokens=max_tokens)

    @torch.no_grad()
    def embed(self, prompt: str) -> Float[Tensor, "1 L D"]:
        """The embedding of one prompt, cached by its text."""
        if prompt not in self._cache:
            self._cache[prompt] = encode_text(self.tokenizer, self.encoder, [prompt], max_tokens=self.max_tokens)
        return self._cache[prompt]

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, the end mark included."""
        return len(self.tokenizer(prompt).input_ids)


def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    encoder: UMT5EncoderModel,
    prompts: list[str],
    *,
    max_tokens: int,
) -> Float[Tensor, "B L D"]:
    """Prompts to embeddings as ``WanPipeline`` makes them; differentiable in the encoder's weights."""
    tokens = tokenizer(prompts, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt")
    device = encoder.device
    mask = tokens.attention_mask.to(device)
    hidden = encoder(tokens.input_ids.to(device), mask).last_hidden_state
    return hidden * mask[..., None].to(hidden.dtype)


def load_transformer(folder: Path, *, dtype: torch.dtype, device: torch.device) -> WanTransformer3DModel:
    """The diffusion transformer of a pipeline folder, frozen, in evaluation mode."""
    model = WanTransformer3DModel.from_pretrained(
        folder / "transformer", dtype=dtype, use_safetensors=True, local_files_only=True
    )
    return model.to(device).eval().requires_grad_(requires_grad=False)


def cast_like_pretrained(model: WanTransformer3DModel, dtype: torch.dtype) -> WanTransformer3DModel:
    """Cast a fresh transformer as ``from_pretrained(dtype=…)`` would.

    Time embedding, modulation and norms stay in fp32; a blanket ``.to(bfloat16)`` would undo that.
    """
    kept = tuple(model._keep_in_fp32_modules or ())  # noqa: SLF001 - diffusers gives the list no public name
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not any(part in kept for part in name.split(".")) and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model


def predict_velocity(
    transformer: WanTransformer3DModel,
    latents: Float[Tensor, "B C T h w"],
    fraction: Float[Tensor, "B T"],
    text: Float[Tensor, "B L D"],
) -> Float[Tensor, "B C T h w"]:
    """v ≈ x_1 − x_0 in fp32 for a noise fraction a latent frame.

    Frames that share one fraction use the plain timestep; frames that differ (a clean first frame at t = 0, as
    Wan 2.2 TI2V has it) use one timestep a token, ``expand_timesteps``.
    """
    _, _, frames, height, width = latents.shape
    patch = transformer.config.patch_size
    tokens_a_frame = (height // patch[1]) * (width // patch[2])
    timestep = fraction.float() * TIMESTEPS
    if bool((timestep == timestep[:, :1]).all()):
        timestep = timestep[:, 0]
    else:
        assert patch[0] == 1, "a timestep a token needs patches of one latent frame"
        timestep = timestep.repeat_interleave(tokens_a_frame, dim=1)
    assert frames == fraction.shape[1]
    velocity = transformer(
        hidden_states=latents.to(transformer.dtype),
        timestep=timestep.to(latents.device),
        encoder_hidden_states=text.to(latents.device, transformer.dtype),
        return_dict=False,
    )[0]
    return velocity.float()
