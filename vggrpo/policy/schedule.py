"""The noise grid: float64, ours, never recomputed from integers.

t is the noise fraction (1 = pure noise), the model's timestep is 1000 t. With flow shift λ,
u_k = 1 − k/N and t_k = λ u_k / (1 + (λ − 1) u_k) (Wan at 480p: λ = 3).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.runtime.errors import UserError

TIMESTEPS = 1000.0


def noise_grid(steps: int, *, shift: float) -> Float[Tensor, " {steps}+1"]:
    """t_0 = 1 > t_1 > … > t_N = 0 in float64."""
    if steps < 1:
        raise UserError(f"At least one denoising step is needed, not {steps}.")
    u = 1.0 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return shift_noise(u, shift=shift)


def shift_noise(u: Float[Tensor, "..."], *, shift: float) -> Float[Tensor, "..."]:
    """The flow shift of noise fractions."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def add_noise(
    clean: Float[Tensor, "B C T h w"],
    noise: Float[Tensor, "B C T h w"],
    fraction: Float[Tensor, "B 1 #T 1 1"],
) -> Float[Tensor, "B C T h w"]:
    """x_t = (1 − t) x_0 + t x_1."""
    return (1.0 - fraction) * clean + fraction * noise
