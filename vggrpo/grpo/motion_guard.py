"""The motion guard: a frozen camera must not be the easiest way to a good reward.

Standing still is perfectly smooth and perfectly consistent, so both of the paper's rewards rise when the camera stops.
With L_j the camera path length of member j and L_base the mean one of the base model's videos of the same prompt, from
the group's own first seeds and by the same sampler,

    h_j = max(0, 1 − L_j / (f · L_base))        in [0, 1], 0 while the path keeps a fraction f of the base's
    A_j ← A_j − λ (h_j − mean over the group of h)

The hinge is not standardised: among members that all move enough it is 0 and changes nothing, and a barely short path
costs little. It is centred, since an advantage is a comparison inside the group. A prompt whose base videos do not
move ("the camera is static") has nothing to freeze, and videos whose path cannot be measured are left out.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STILL_PATH = 0.05
"""Base paths below this many scene scales count as standing: their length is the noise of the geometry model."""


def motion_hinge(path_length: Float[Tensor, "P K"], *, base: Float[Tensor, " P"], floor: float) -> Float[Tensor, "P K"]:
    """h_j of every member; 0 where it or the base's path cannot be measured, or where the base stands."""
    wanted = (floor * base)[:, None]
    applies = (base >= STILL_PATH)[:, None] & path_length.isfinite() & (wanted > 0)
    hinge = (1.0 - path_length / wanted.clamp_min(torch.finfo(base.dtype).tiny)).clamp_min(0.0)
    return torch.where(applies, hinge, 0.0)


def guarded_advantages(
    advantages: Float[Tensor, "P K"],
    *,
    hinge: Float[Tensor, "P K"],
    measured: Bool[Tensor, "P K"],
    strength: float,
) -> Float[Tensor, "P K"]:
    """A_j − λ (h_j − mean h) over the measured members; the others keep their advantage of 0."""
    count = measured.sum(dim=1, keepdim=True).clamp_min(1)
    mean = torch.where(measured, hinge, 0.0).sum(dim=1, keepdim=True) / count
    return torch.where(measured, advantages - strength * (hinge - mean), advantages)


def mean_of_measured(values: Float[Tensor, "P n"]) -> Float[Tensor, " P"]:
    """Mean over the finite values of each row; NaN where there are none."""
    return values.nanmean(dim=1)
