"""Averages over the part of a tensor that can be measured."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*batch n"], *, mask: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Mean over the last axis of the entries under the mask; NaN where there are none. Others get no gradient."""
    count = mask.sum(dim=-1)
    total = torch.where(mask, values, 0.0).sum(dim=-1)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)
