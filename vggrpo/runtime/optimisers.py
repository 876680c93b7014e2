"""The optimisers of a training loop: AdamW for all, or Muon for the matrices of transformer blocks.

Muon (Keller Jordan 2024; with the step size of arXiv 2502.16982, which takes AdamW's learning rate) follows the
orthogonalised momentum of a matrix. It is meant for hidden layers: embeddings, output layers, norms and biases stay
with AdamW.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

OptimiserName = Literal["adamw", "muon"]
STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
"""What an optimiser may remember of a parameter, and a checkpoint holds."""
_BLOCKS = ("blocks.", "block.")
"""Mark of a hidden layer in the name of a parameter: of diffusers' transformers, T5 and the geometry models."""
_LOOKUPS = ("relative_attention_bias",)
"""Tables inside blocks that are no matrix product."""


def build_optimisers(
    masters: Mapping[str, Tensor],
    *,
    name: OptimiserName,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Optimisers that share out the parameters by their names; none is in two, none is left out."""
    matrices = {key for key, value in masters.items() if name == "muon" and _is_hidden_matrix(key, value)}
    others = [value for key, value in masters.items() if key not in matrices]
    optimisers: list[torch.optim.Optimizer] = []
    if others:
        optimisers.append(torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay))
    if matrices:
        chosen = [value for key, value in masters.items() if key in matrices]
        optimisers.append(
            torch.optim.Muon(chosen, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimisers


def _is_hidden_matrix(name: str, value: Tensor) -> bool:
    return value.ndim == 2 and any(mark in name for mark in _BLOCKS) and not any(word in name for word in _LOOKUPS)
