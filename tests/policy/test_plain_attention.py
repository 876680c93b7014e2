"""Attention by plain products is diffusers' own: the same velocity, the same gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vggrpo.policy.backbone import load_transformer, predict_velocity
from vggrpo.policy.plain_attention import PlainWanAttention


def velocity_and_gradient(folder: Path, *, plain: bool, given_first: bool) -> tuple[Tensor, Tensor]:
    transformer = load_transformer(folder, dtype=torch.float32, device=torch.device("cpu"))
    transformer.requires_grad_(requires_grad=True)
    if plain:
        transformer.set_attn_processor(PlainWanAttention())
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 8, 8, generator=generator)
    text = torch.randn(2, 7, 32, generator=generator)
    fraction = torch.tensor([[0.3], [0.8]]).expand(-1, 3).clone()
    if given_first:
        fraction[:, 0] = 0.0
    velocity = predict_velocity(transformer, latents, fraction, text)
    velocity.square().mean().backward()
    gradients = [p.grad.flatten() for p in transformer.parameters() if p.grad is not None]
    return velocity.detach(), torch.cat(gradients)


@pytest.mark.parametrize("given_first", [False, True])
def test_velocity_and_gradient_are_those_of_diffusers(pipeline_folder: Path, *, given_first: bool) -> None:
    velocity, gradient = velocity_and_gradient(pipeline_folder, plain=False, given_first=given_first)
    mine, my_gradient = velocity_and_gradient(pipeline_folder, plain=True, given_first=given_first)
    assert velocity.abs().max() > 0.1
    torch.testing.assert_close(mine, velocity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(my_gradient, gradient, rtol=1e-3, atol=1e-6)
