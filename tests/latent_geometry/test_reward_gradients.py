"""Rewards as functions of latents, through Φ_g: what reward guidance climbs. Oracle: central differences in float64.

Both rewards jump where a pixel's nearest point changes, so each is differentiable almost everywhere only: a step of the
difference is right if no pixel changes within it. A wrong gradient agrees at no step.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vggrpo.latent_geometry.foundation.registry import load_geometry
from vggrpo.latent_geometry.model import LatentGeometryModel
from vggrpo.presets import ASSETS, get_preset
from vggrpo.rewards import geometry_consistency, motion_smoothness, scene_smoothness
from vggrpo.runtime.run_folder import read_latents
from vggrpo.types import Latents, RewardTerm, SceneGeometry

Term = Callable[[SceneGeometry], RewardTerm]


@pytest.fixture(scope="module")
def latent_geometry() -> LatentGeometryModel:
    """The shipped Φ_g: random weights see no scene that a reward could judge."""
    folders = get_preset("tiny").folders
    assert folders is not None
    model = LatentGeometryModel.load(folders.latent_geometry, foundation=load_geometry("any4d", folders.geometry))
    model.merge_lora()
    return model.double().requires_grad_(requires_grad=False)


def crops() -> list[Tensor]:
    """The middle of two latent frames of each shipped example: five frames of 64 × 64."""
    files: list[Path] = sorted((ASSETS / "examples").glob("*/latents.safetensors"))
    return [read_latents(file).latents.tensor.double()[:, :, :2, 4:12, 4:12].contiguous() for file in files]


@pytest.mark.parametrize("term", [motion_smoothness, geometry_consistency, scene_smoothness])
def test_the_gradient_in_the_latents_is_right(latent_geometry: LatentGeometryModel, term: Term) -> None:
    def reward(latents: Tensor) -> Tensor:
        return term(latent_geometry(Latents(tensor=latents))).value

    with torch.no_grad():
        point = next(crop for crop in crops() if reward(crop).isfinite())
    leaf = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(leaf).sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.norm() > 1e-6
    noise = torch.randn(point.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for direction in (gradient / gradient.norm(), noise / noise.norm()):
        expected = (gradient * direction).sum().item()
        slopes = (slope(reward, point, direction, step=step) for step in (1e-6, 1e-7, 1e-5))
        assert any(value == pytest.approx(expected, rel=1e-3, abs=1e-8) for value in slopes)


@torch.no_grad()
def slope(reward: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor, *, step: float) -> float:
    return ((reward(point + step * direction) - reward(point - step * direction)) / (2 * step)).item()
