"""A stand-in for the text encoder where only sizes count: random embeddings, one vector a token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class EncodedText:
    """What transformers' encoders return, as far as it is read."""

    last_hidden_state: Tensor
    """[B, L, D]."""


class RandomTextEncoder(nn.Module):
    """Tokens to fixed random vectors; called as ``UMT5EncoderModel`` is."""

    def __init__(self, *, vocabulary: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)

    @property
    def device(self) -> torch.device:
        """Where its table is."""
        return self.table.weight.device

    def forward(self, tokens: Tensor, mask: Tensor) -> EncodedText:
        """Token ids and mask [B, L] to vectors; the mask is the caller's to apply."""
        del mask
        return EncodedText(self.table(tokens))


def random_text(vocabulary: int, width: int, *, dtype: torch.dtype) -> RandomTextEncoder:
    """The same vectors on every machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (
            RandomTextEncoder(vocabulary=vocabulary, width=width).to(dtype).eval().requires_grad_(requires_grad=False)
        )
