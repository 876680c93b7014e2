"""A short name for a model's weights, for caches and for the question whether two files hold the same model."""

import hashlib

import torch
from torch import nn

ENTRIES = 4096
"""Numbers that are looked at in every parameter, evenly spaced: billions of weights are named in seconds."""


@torch.no_grad()
def weights_sketch(model: nn.Module, *, parts: tuple[str, ...] = ("",)) -> str:
    """SHA-256 of some entries of every parameter by name, shape and value in bfloat16.

    Equal for equal weights, wherever they lie and however precisely they are held. Another training of the same
    architecture changes every parameter, and so the sketch; an attack on a few entries would go unseen. ``parts`` are
    what the names of parameters begin with that count; all of them if not given.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not name.startswith(parts):
            continue
        flat = parameter.detach().reshape(-1)
        seen = flat[:: max(1, flat.numel() // ENTRIES)][:ENTRIES].to(torch.bfloat16).float().cpu()
        digest.update(f"{name}{list(parameter.shape)}".encode())
        digest.update(seen.numpy().tobytes())
    return digest.hexdigest()
