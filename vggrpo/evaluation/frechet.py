"""Fréchet distance of two sets of feature vectors, each taken for a Gaussian:

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)

(Dowson & Landau 1982; Heusel et al. 2017 for images.) In float64, and without the square root of an asymmetric matrix:
Σ₁ Σ₂ has the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric.

**Bias.** Estimated from n samples, d² is too large by about a constant over n, also for two sets of the same
distribution. Distances are comparable at equal n only; beside one between different sets belongs the one between two
disjoint sets of true clips, which would be zero if n were infinite.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.subjects import FrameReader


def frechet_distance(first: Float[np.ndarray, "n d"], *, second: Float[np.ndarray, "m d"]) -> float:
    """d² between the Gaussians fitted to two sets of vectors.

    Raises a ValueError for fewer than two vectors on a side, or for vectors that are not finite.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (first, second)]
    if min(len(side) for side in sides) < 2:
        raise ValueError("a covariance needs at least two vectors on each side")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("the vectors hold values that are not finite")
    means = [side.mean(axis=0) for side in sides]
    covariances = [np.cov(side, rowvar=False).reshape(side.shape[1], side.shape[1]) for side in sides]
    return gaussian_distance(means[0], covariance=covariances[0], other_mean=means[1], other_covariance=covariances[1])


def gaussian_distance(
    mean: Float[np.ndarray, " d"],
    *,
    covariance: Float[np.ndarray, "d d"],
    other_mean: Float[np.ndarray, " d"],
    other_covariance: Float[np.ndarray, "d d"],
) -> float:
    """d² of two Gaussians, never negative."""
    root = _square_root(covariance)
    middle = root @ other_covariance @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((middle + middle.T) / 2), 0.0, None)).sum()
    traces = np.trace(covariance) + np.trace(other_covariance)
    return max(0.0, float(np.square(mean - other_mean).sum() + traces - 2.0 * cross))


@torch.no_grad()
def encoder_features(model: FrameReader, images: Float[Tensor, "B N 3 H W"]) -> Float[np.ndarray, "frames C"]:
    """One vector a frame: Φ's image encoder after its last block and norm, the mean over patch tokens.

    The encoder reads each frame alone: the features know what a frame looks like, not how it moves.
    """
    features = model.finish_encoder(model.encode_tokens(images, upto=0), start=0)
    return features.mean(dim=2).flatten(0, 1).double().cpu().numpy()


def _square_root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root of a positive semi-definite matrix; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
