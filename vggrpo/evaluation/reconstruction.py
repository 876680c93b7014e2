"""How much of a clip a video autoencoder keeps."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionError:
    """Mean squared errors of one clip in units of its full range (0 to 1), and the correlation of its chroma."""

    squared: float
    squared_first_frame: float
    chroma_correlation: float


def reconstruction_error(
    decoded: Float[Tensor, "1 3 N H W"], *, true: Float[Tensor, "1 3 N H W"]
) -> ReconstructionError:
    """Compare one clip with its reconstruction, both in [-1, 1]."""
    error = (decoded - true).square() / 4.0
    chroma = [(clip - clip.mean(dim=1, keepdim=True)).flatten() for clip in (decoded, true)]
    return ReconstructionError(
        squared=float(error.mean()),
        squared_first_frame=float(error[:, :, 0].mean()),
        chroma_correlation=float(torch.corrcoef(torch.stack(chroma))[0, 1]),
    )


def peak_signal_to_noise(squared_errors: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """PSNR in dB over n clips: −10 log₁₀ of their mean squared error, so that bad clips are not averaged away."""
    return np.asarray(-10.0 * np.log10(np.mean(squared_errors, axis=-1)))
