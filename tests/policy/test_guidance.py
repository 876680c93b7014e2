"""Reward guidance. Oracles: the tilted Gaussian in closed form, finite differences, the unguided sampler to the bit."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.policy.closed_form import SIZES, Gaussian
from vggrpo.policy.guidance import (
    GuidedSample,
    Reward,
    RewardGuidance,
    RewardGuide,
    reward_guided_velocity,
    sample_guided,
)
from vggrpo.policy.sampling import Conditions, draw_noise, guided_velocity, sample_ode
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

CPU = torch.device("cpu")
TEXT = Conditions(text=torch.zeros(2, 2, 32))
VARIANCE = 0.3**2
UNLIMITED = RewardGuidance(scale=1.0, every=1, max_factor=1e9, max_share=1e9)
SMALL = VideoArchitecture(
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    ffn_dim=32,
    latent_channels=2,
    text_dim=32,
    text_layers=1,
)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return draw_noise((2, 2, 3, 4, 4), seed=0, device=CPU)


@pytest.fixture(scope="module")
def gaussian() -> Gaussian:
    return Gaussian(**SIZES)


@pytest.fixture(scope="module")
def transformer() -> WanTransformer3DModel:
    """A real one with random weights that leave no output at zero."""
    torch.manual_seed(0)
    model = SMALL.build_transformer().eval().requires_grad_(requires_grad=False)
    torch.nn.init.normal_(model.proj_out.weight, std=0.05)
    return model


def brightness(latents: Latents) -> Tensor:
    return latents.tensor.flatten(1).sum(dim=1)


def nearness(latents: Latents) -> Tensor:
    return -(latents.tensor - 0.5).square().flatten(1).mean(dim=1)


def sample(
    model: WanTransformer3DModel, noise: Tensor, reward: Reward, settings: RewardGuidance, **more
) -> GuidedSample:
    options = {"steps": 6, "shift": 3.0, **more}
    conditions = Conditions(text=torch.zeros(len(noise), 2, 32))
    return sample_guided(model, noise, conditions, guide=RewardGuide(reward=reward, settings=settings), **options)


def plain(model: WanTransformer3DModel, noise: Tensor) -> Tensor:
    return sample_ode(model, noise, TEXT, steps=6, shift=3.0).tensor


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_linear_reward_tilts_a_gaussian_as_the_closed_form_says(
    gaussian: Gaussian, noise: Tensor, scale: float
) -> None:
    """p(x) exp(s Σ x) for x ~ N(0, σ²) is N(s σ², σ²), and guidance is exact there: every sample moves by s σ².

    The only error is the first step, at t = 1, whose finite limit 0 · ∞ no clamp can give.
    """
    settings = replace(UNLIMITED, scale=scale)
    guided = sample(gaussian, noise, brightness, settings, steps=200, shift=1.0).latents.tensor
    unguided = sample_ode(gaussian, noise, TEXT, steps=200, shift=1.0).tensor
    torch.testing.assert_close(guided - unguided, torch.full_like(noise, scale * VARIANCE), rtol=0.005, atol=1e-5)


def test_the_correction_is_the_formula(gaussian: Gaussian, noise: Tensor) -> None:
    """r = −mean (x − ½)²: ∇ r(ẑ_0) = −2 c (c z − ½) / D with ẑ_0 = c z, c = (1 − t) σ² / ((1 − t)² σ² + t²)."""
    t, scale = 0.4, 7.0
    guide = RewardGuide(reward=nearness, settings=replace(UNLIMITED, scale=scale))
    step = reward_guided_velocity(gaussian, noise, t, TEXT, guide=guide)
    c = (1 - t) * VARIANCE / ((1 - t) ** 2 * VARIANCE + t**2)
    gradient = -2 * c * (c * noise - 0.5) / noise[0].numel()
    expected = guided_velocity(gaussian, noise, t, TEXT) - scale * t / (1 - t) * gradient
    torch.testing.assert_close(step.velocity, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_goes_through_the_transformer(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    """Central differences of z ↦ r(z − t v(z)) along random directions, with classifier-free guidance."""
    t = 0.6
    conditions = Conditions(text=torch.randn(1, 4, 32), negative=torch.zeros(1, 4, 32), guidance=3.0)
    point = noise[:1]
    guide = RewardGuide(reward=nearness, settings=replace(UNLIMITED, scale=1.0))
    step = reward_guided_velocity(transformer, point, t, conditions, guide=guide)
    gradient = (guided_velocity(transformer, point, t, conditions) - step.velocity) * (1 - t) / t

    @torch.no_grad()
    def value(z: Tensor) -> float:
        return nearness(Latents(tensor=z - t * guided_velocity(transformer, z, t, conditions))).item()

    for seed in range(3):
        direction = draw_noise(tuple(point.shape), seed=seed, device=CPU)
        step_size = 0.02
        slope = (value(point + step_size * direction) - value(point - step_size * direction)) / (2 * step_size)
        assert (gradient * direction).sum().item() == pytest.approx(slope, rel=0.02, abs=1e-4)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_guided_sample_has_more_of_the_reward(
    transformer: WanTransformer3DModel, noise: Tensor, every: int
) -> None:
    guided = sample(transformer, noise, nearness, RewardGuidance(scale=200.0, every=every, max_share=0.5))
    before, after = nearness(Latents(tensor=plain(transformer, noise))), nearness(guided.latents)
    assert (after > before + 0.01).all()
    assert guided.counts.guided == 2 * (6 // every)
    assert guided.counts.skipped == 0


def test_scale_zero_is_the_unguided_sample_to_the_bit(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    def never(_: Latents) -> Tensor:
        raise AssertionError("nothing to ask")

    guided = sample(transformer, noise, never, RewardGuidance(scale=0.0, every=1))
    assert torch.equal(guided.latents.tensor, plain(transformer, noise))
    assert (guided.counts.guided, guided.counts.skipped) == (0, 0)


def without_value(latents: Latents) -> Tensor:
    return torch.full((latents.tensor.shape[0],), torch.nan)


def with_value_nan(latents: Latents) -> Tensor:
    return brightness(latents) * torch.nan


def with_gradient_nan(latents: Latents) -> Tensor:
    return (0.0 * brightness(latents)).sqrt()


@pytest.mark.parametrize("reward", [without_value, with_value_nan, with_gradient_nan])
def test_what_is_not_finite_guides_nothing_and_is_counted(
    transformer: WanTransformer3DModel, noise: Tensor, reward: Reward
) -> None:
    guided = sample(transformer, noise, reward, RewardGuidance(scale=100.0, every=2))
    assert torch.equal(guided.latents.tensor, plain(transformer, noise))
    assert (guided.counts.guided, guided.counts.clipped, guided.counts.skipped) == (0, 0, 2 * 3)


def test_a_video_without_a_reward_does_not_disturb_its_neighbour(
    transformer: WanTransformer3DModel, noise: Tensor
) -> None:
    def only_the_second(latents: Latents) -> Tensor:
        return torch.where(torch.tensor([True, False]), torch.nan, nearness(latents))

    settings = RewardGuidance(scale=100.0, every=2)
    both = sample(transformer, noise, only_the_second, settings)
    alone = sample(transformer, noise[1:], nearness, settings).latents.tensor
    torch.testing.assert_close(both.latents.tensor[1:], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(both.latents.tensor[:1], plain(transformer, noise)[:1])
    assert (both.counts.guided, both.counts.skipped) == (3, 3)


def test_the_correction_is_clipped_to_its_share_of_the_velocity(gaussian: Gaussian, noise: Tensor) -> None:
    velocity = guided_velocity(gaussian, noise, 0.5, TEXT)
    for scale, is_clipped in ((1e6, True), (1e-3, False)):
        settings = RewardGuidance(scale=scale, max_share=0.25)
        step = reward_guided_velocity(gaussian, noise, 0.5, TEXT, guide=RewardGuide(reward=nearness, settings=settings))
        share = (step.velocity - velocity).flatten(1).norm(dim=1) / velocity.flatten(1).norm(dim=1)
        assert (step.is_clipped == is_clipped).all()
        torch.testing.assert_close(share.clamp(max=0.25), share, rtol=0, atol=1e-5)
        if is_clipped:
            torch.testing.assert_close(share, torch.full_like(share, 0.25), rtol=1e-4, atol=0)


def test_the_factor_is_clamped() -> None:
    settings = RewardGuidance(scale=1.0, max_factor=4.0)
    assert [settings.factor(t) for t in (0.0, 0.5, 0.8, 0.9, 1.0)] == pytest.approx([0.0, 1.0, 4.0, 4.0, 4.0])


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3]), (7, [])])
def test_every_nth_step_asks_the_reward(gaussian: Gaussian, noise: Tensor, every: int, steps: list[int]) -> None:
    asked: list[int] = []
    done: list[int] = []

    def reward(latents: Latents) -> Tensor:
        asked.append(len(done))
        return nearness(latents)

    sample(gaussian, noise, reward, RewardGuidance(scale=1.0, every=every), on_step=lambda index, _: done.append(index))
    assert asked == steps
    assert done == [1, 2, 3, 4, 5, 6]


def test_a_given_first_frame_stays_as_it_is(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    first = torch.full((2, 2, 1, 4, 4), 0.9)
    conditions = Conditions(text=torch.zeros(2, 2, 32), first_frame=first)
    guide = RewardGuide(reward=nearness, settings=RewardGuidance(scale=1e4, every=1, max_share=1.0))
    guided = sample_guided(transformer, noise, conditions, guide=guide, steps=4, shift=3.0).latents.tensor
    assert torch.equal(guided[:, :, :1], first)
    unguided = sample_ode(transformer, noise, conditions, steps=4, shift=3.0).tensor
    assert not torch.allclose(guided[:, :, 1:], unguided[:, :, 1:], atol=1e-3)


def test_no_graph_is_left(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    latents = sample(transformer, noise, nearness, RewardGuidance(scale=10.0, every=1)).latents.tensor
    assert not latents.requires_grad
    assert all(parameter.grad is None for parameter in transformer.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1.0}, r"scale is -1\.0; give 0"),
        ({"scale": math.nan}, "scale is nan"),
        ({"scale": math.inf}, "scale is inf"),
        ({"scale": 1.0, "every": 0}, "every 0 steps"),
        ({"scale": 1.0, "max_factor": 0.0}, "max_factor is 0"),
        ({"scale": 1.0, "max_share": -0.1}, "max_share is -0.1"),
    ],
)
def test_bad_settings_say_what_is_wrong(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RewardGuidance(**settings)
    assert "\n" not in str(caught.value)
