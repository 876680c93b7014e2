"""The video transformer's attention by plain matrix products, for training on a CPU.

diffusers calls torch's fused attention, whose backward pass in bfloat16 costs a CPU more than everything else in a
step. The numbers are the same up to rounding; weights and architecture are untouched.
"""

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from jaxtyping import Float
from torch import Tensor

from vggrpo.runtime.attention import attention


class PlainWanAttention:
    """An attention processor of ``WanTransformer3DModel`` for text to video: no mask, no image tokens."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Float[Tensor, "B L D"],
        encoder_hidden_states: Float[Tensor, "B M E"] | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Float[Tensor, "1 L 1 d"], Float[Tensor, "1 L 1 d"]] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Self-attention with rotary positions, or attention to the prompt."""
        assert attention_mask is None, "text to video has no mask"
        assert attn.add_k_proj is None, "text to video has no image tokens"
        others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(others)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(others).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = _rotate(query, *rotary_emb), _rotate(key, *rotary_emb)
        mixed = attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2, 3)))


def _rotate(
    heads: Float[Tensor, "B L h d"], cosine: Float[Tensor, "1 L 1 d"], sine: Float[Tensor, "1 L 1 d"]
) -> Float[Tensor, "B L h d"]:
    """Neighbouring channels are the two coordinates that turn; diffusers repeats each angle for both."""
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosine[..., 0::2], sine[..., 0::2]
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).type_as(heads)
