"""The video model: a genuine ``WanPipeline`` folder, taken apart into what a policy needs.

Text becomes embeddings once and is cached; the VAE is not loaded here (``vggrpo.latents`` owns it), so a policy whose
reward is latent never carries it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerBase, UMT5EncoderModel

from vggrpo.policy.schedule import TIMESTEPS
from vggrpo.runtime.lazy import Lazy


@runtime_checkable
class TextEncoder(Protocol):
    """The part of ``UMT5EncoderModel`` that is used."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def __call__(self, tokens: Tensor, mask: Tensor) -> Any:
        """Token ids and mask [B, L] to a result with ``last_hidden_state`` [B, L, D]."""
        ...


class TextConditioner:
    """UMT5 text to the embeddings that Wan is conditioned on: zero after the true length, padded to ``max_tokens``.

    Every prompt is embedded once, by itself (so that its numbers do not depend on its company), and kept without its
    padding in main memory. UMT5-XXL is larger than the video model, so it is loaded for new prompts only and, unless
    ``keep_encoder``, leaves again when they are done: give ``prepare`` all prompts at once.
    """

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        encoder: TextEncoder | Lazy[Any],
        max_tokens: int,
        device: torch.device | None = None,
        keep_encoder: bool = True,
    ) -> None:
        """``device`` is where embeddings are handed out; the encoder's if not given."""
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._encoder = encoder if isinstance(encoder, Lazy) else Lazy(lambda: encoder)
        self._device = device
        self.keep_encoder = keep_encoder
        self._cache: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_tokens: int,
        keep_encoder: bool = True,
    ) -> "TextConditioner":
        """Load the tokenizer of a pipeline folder; its text encoder waits for the first prompt."""

        def make() -> UMT5EncoderModel:
            encoder = UMT5EncoderModel.from_pretrained(
                folder / "text_encoder", dtype=dtype, use_safetensors=True, local_files_only=True
            )
            return encoder.to(device).eval().requires_grad_(requires_grad=False)

        return cls(
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            encoder=Lazy(make),
            max_tokens=max_tokens,
            device=device,
            keep_encoder=keep_encoder,
        )

    @property
    def encoder_is_loaded(self) -> bool:
        """Whether the text encoder is in memory."""
        return self._encoder.is_loaded

    @torch.no_grad()
    def prepare(self, prompts: Iterable[str]) -> None:
        """Embed what is not embedded yet, then let the text encoder go unless it is to be kept."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if not new:
            return
        encoder = self._encoder.get()
        for prompt in new:
            hidden = encode_text(self.tokenizer, encoder, [prompt_clean(prompt)], max_tokens=self.max_tokens)
            length = min(self.count_tokens(prompt), self.max_tokens)
            self._cache[prompt] = hidden[:, :length].cpu()
        if not self.keep_encoder:
            del encoder
            self.release()

    def embed(self, prompt: str) -> Float[Tensor, "1 L D"]:
        """The embedding of one prompt, cached by its text."""
        self.prepare([prompt])
        kept = self._cache[prompt]
        padded = F.pad(kept, (0, 0, 0, self.max_tokens - kept.shape[1]))
        return padded if self._device is None else padded.to(self._device)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, the end mark included."""
        return len(self.tokenizer(prompt_clean(prompt)).input_ids)

    def release(self) -> None:
        """Let the text encoder go; embeddings stay, and a new prompt loads it again."""
        self._encoder.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    encoder: TextEncoder,
    prompts: list[str],
    *,
    max_tokens: int,
) -> Float[Tensor, "B L D"]:
    """Prompts to embeddings as ``WanPipeline`` makes them; differentiable in the encoder's weights.

    The encoder reads no more tokens than the longest prompt has; what it does not read is masked in any case.
    """
    tokens = tokenizer(prompts, padding="longest", max_length=max_tokens, truncation=True, return_tensors="pt")
    device = encoder.device
    mask = tokens.attention_mask.to(device)
    hidden = encoder(tokens.input_ids.to(device), mask).last_hidden_state
    hidden = hidden * mask[..., None].to(hidden.dtype)
    return F.pad(hidden, (0, 0, 0, max_tokens - hidden.shape[1]))


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
    fraction: Float[Tensor, "B #T"],
    text: Float[Tensor, "B L D"],
) -> Float[Tensor, "B C T h w"]:
    """v ≈ x_1 − x_0 in fp32 for a noise fraction a latent frame, or one for all.

    Frames that share one fraction use the plain timestep; frames that differ (a clean first frame at t = 0, as
    Wan 2.2 TI2V has it) use one timestep a token, ``expand_timesteps``.
    """
    _, _, frames, height, width = latents.shape
    patch = transformer.config.patch_size
    tokens_a_frame = (height // patch[1]) * (width // patch[2])
    timestep = fraction.float() * TIMESTEPS
    # One fraction for all frames needs no look at the numbers, for which a GPU would have to be waited for.
    if timestep.shape[1] == 1 or bool((timestep == timestep[:, :1]).all()):
        timestep = timestep[:, 0]
    else:
        assert patch[0] == 1, "a timestep a token needs patches of one latent frame"
        timestep = timestep.repeat_interleave(tokens_a_frame, dim=1)
    assert fraction.shape[1] in {1, frames}
    velocity = transformer(
        hidden_states=latents.to(transformer.dtype),
        timestep=timestep.to(latents.device),
        encoder_hidden_states=text.to(latents.device, transformer.dtype),
        return_dict=False,
    )[0]
    return velocity.float()
