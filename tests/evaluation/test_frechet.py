"""The Fréchet distance. Oracles: closed forms of Gaussians, scipy's matrix square root, affine maps of samples."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vggrpo.evaluation.frechet import encoder_features, frechet_distance, gaussian_distance
from vggrpo.latent_geometry.foundation.registry import build_geometry


def draw_covariance(rng: np.random.Generator, dimension: int) -> np.ndarray:
    factor = rng.normal(size=(dimension, dimension))
    return factor @ factor.T + 0.1 * np.eye(dimension)


def test_gaussians_with_common_axes_have_a_simple_distance() -> None:
    """Σ = diag(s²): the squared distances of means and of standard deviations."""
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 6)), rng.uniform(0.1, 3.0, size=(2, 6))
    found = gaussian_distance(
        means[0],
        covariance=np.diag(deviations[0] ** 2),
        other_mean=means[1],
        other_covariance=np.diag(deviations[1] ** 2),
    )
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert found == pytest.approx(expected, rel=1e-12)


def test_gaussians_of_any_shape_agree_with_the_asymmetric_square_root() -> None:
    rng = np.random.default_rng(1)
    covariances = [draw_covariance(rng, 8) for _ in range(2)]
    mean, other = rng.normal(size=(2, 8))
    found = gaussian_distance(mean, covariance=covariances[0], other_mean=other, other_covariance=covariances[1])
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = np.square(mean - other).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert found == pytest.approx(expected, rel=1e-9)


def test_stretched_and_moved_samples_are_as_far_as_they_were_moved() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(50, 5)) @ draw_covariance(rng, 5)
    shift = np.arange(5.0)
    moved = samples.mean(0) + shift + 2.0 * (samples - samples.mean(0))
    expected = np.square(shift).sum() + np.trace(np.cov(samples, rowvar=False))
    assert frechet_distance(samples, second=moved) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moved, second=samples) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(samples, second=samples[::-1]) == pytest.approx(0.0, abs=1e-6)


def test_rotating_the_features_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 40, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    expected = frechet_distance(first, second=second)
    assert frechet_distance(first @ rotation, second=second @ rotation) == pytest.approx(expected, rel=1e-9)


def test_few_samples_of_one_distribution_look_far_apart() -> None:
    """The bias that the yardstick is for: about a constant over n."""
    rng = np.random.default_rng(4)

    def distance(n: int) -> float:
        return float(
            np.mean([frechet_distance(*(d := rng.normal(size=(2, n, 6)))[:1], second=d[1]) for _ in range(20)])
        )

    assert distance(40) > 3.0 * distance(400) > 0.0


def test_a_set_of_one_direction_is_no_trouble() -> None:
    line = np.linspace(0.0, 1.0, 20)[:, None] * np.ones(4)
    assert frechet_distance(line, second=line + 1.0) == pytest.approx(4.0, rel=1e-7)


def test_too_few_vectors_or_none_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="two vectors"):
        frechet_distance(np.zeros((1, 3)), second=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.full((5, 3), np.nan), second=np.zeros((5, 3)))


def test_features_are_the_encoders_output_frame_by_frame() -> None:
    model = build_geometry("any4d", random_seed=0, size="debug").eval()
    images = torch.rand(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    features = encoder_features(model, images)
    assert features.shape == (6, model.token_dim)
    assert features.dtype == np.float64
    with torch.no_grad():
        tokens = list(model.encoder_activations(images))[-1]
        expected = model.finish_encoder(tokens, start=model.encoder_depth).mean(dim=2).flatten(0, 1)
    np.testing.assert_allclose(features, expected.double().numpy(), rtol=1e-4, atol=1e-5)
    # A frame's features do not depend on its neighbours.
    alone = encoder_features(model, images[1:, 2:])
    np.testing.assert_allclose(alone[0], features[5], rtol=1e-4, atol=1e-5)
