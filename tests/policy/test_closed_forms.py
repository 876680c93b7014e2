"""Sampling where the velocity is known in closed form, and diffusers' scheduler as a second route to our grid.

Gaussian data x_0 ~ N(0, s²) with x_t = (1 − t) x_0 + t x_1 has v(x, t) = E[x_1 − x_0 | x_t = x]
= (t − (1 − t) s²) / ((1 − t)² s² + t²) · x, and its ODE carries noise x_1 exactly to s · x_1.
One data point a has v(x, t) = (x − a) / t, and Euler steps of any size land on a.
"""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from tests.policy.closed_form import SIZES, Gaussian, OnePoint
from vggrpo.policy.backbone import cast_like_pretrained
from vggrpo.policy.sampling import Conditions, draw_noise, guided_velocity, sample_ode
from vggrpo.policy.schedule import add_noise, noise_grid, shift_noise
from vggrpo.pretraining.video import VideoArchitecture

SMALL = VideoArchitecture(
    num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=16, latent_channels=2, text_dim=32
)
CPU = torch.device("cpu")
SHAPE = (2, 2, 3, 4, 4)
NO_TEXT = Conditions(text=torch.zeros(2, 1, 32))


def test_the_grid_is_that_of_the_reference_table() -> None:
    """N = 10, shift 3: t and |Δ| as tabled with the RL formulas (three digits)."""
    table = [1.000, 0.964, 0.923, 0.875, 0.818, 0.750, 0.667, 0.562, 0.429, 0.250, 0.0]
    steps = [0.036, 0.041, 0.048, 0.057, 0.068, 0.083, 0.104, 0.134, 0.179, 0.250]
    grid = noise_grid(10, shift=3.0)
    # Tables round half to even (0.5625 is .562 there), hence the bound just above half a digit.
    np.testing.assert_allclose(grid.numpy(), table, atol=5.01e-4)
    np.testing.assert_allclose(-grid.diff().numpy(), steps, atol=5.01e-4)


@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (10, 3.0), (20, 5.0), (7, 1.0)])
def test_diffusers_has_the_same_grid_when_it_shifts_once(steps: int, shift: float) -> None:
    """Trap: without explicit sigmas diffusers starts from its own, already shifted range and shifts again."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    torch.testing.assert_close(noise_grid(steps, shift=shift).float(), scheduler.sigmas)
    torch.testing.assert_close(1000.0 * noise_grid(steps, shift=shift)[:-1].float(), scheduler.timesteps)


def test_the_shift_can_be_undone() -> None:
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_noise(shift_noise(u, shift=3.0), shift=1 / 3.0), u)


def test_velocity_leads_from_a_noisy_sample_to_both_ends() -> None:
    """x_0 = x_t − t v and x_1 = x_t + (1 − t) v with v = x_1 − x_0."""
    clean, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    fraction = torch.rand(2, 1, 3, 1, 1)
    noisy, velocity = add_noise(clean, noise, fraction), noise - clean
    torch.testing.assert_close(noisy - fraction * velocity, clean)
    torch.testing.assert_close(noisy + (1 - fraction) * velocity, noise)


def test_the_ode_of_a_gaussian_ends_at_its_standard_deviation() -> None:
    """Euler is of first order: twice the steps, half the error."""
    noise = draw_noise(SHAPE, seed=0, device=CPU)
    errors = []
    for steps in (100, 200, 400):
        ends = sample_ode(Gaussian(**SIZES), noise, NO_TEXT, steps=steps, shift=3.0).tensor
        errors.append(float((ends / noise / 0.3 - 1).abs().max()))
    assert errors[-1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_straight_paths_are_exact_in_any_number_of_steps(steps: int) -> None:
    noise = draw_noise(SHAPE, seed=1, device=CPU)
    ends = sample_ode(OnePoint(**SIZES), noise, NO_TEXT, steps=steps, shift=3.0).tensor
    torch.testing.assert_close(ends, torch.full(SHAPE, 0.7), rtol=0, atol=1e-6)


def test_a_given_first_frame_stays_to_the_bit_and_is_told_to_the_model() -> None:
    """The formula returns NaN at t = 0, so that any use of the model's answer there would be seen."""
    model = OnePoint(**SIZES)
    noise = draw_noise(SHAPE, seed=1, device=CPU)
    first = torch.randn(2, 2, 1, 4, 4)
    ends = sample_ode(model, noise, Conditions(text=NO_TEXT.text, first_frame=first), steps=4, shift=3.0).tensor
    assert torch.equal(ends[:, :, :1], first)
    torch.testing.assert_close(ends[:, :, 1:], torch.full((2, 2, 2, 4, 4), 0.7), rtol=0, atol=1e-6)
    grid = noise_grid(4, shift=3.0)
    for index, timesteps in enumerate(model.seen):
        assert timesteps.shape == (2, 3 * 2 * 2)
        assert not timesteps[:, :4].any()
        assert torch.equal(timesteps[:, 4:], torch.full((2, 8), float(grid[index])) * 1000.0)


def test_guiding_away_from_the_prompt_itself_changes_nothing() -> None:
    torch.manual_seed(0)
    transformer = SMALL.build_transformer()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    latents, text = torch.randn(1, 2, 3, 4, 4), torch.randn(1, 5, 32)
    plain = guided_velocity(transformer, latents, 0.4, Conditions(text=text))
    guided = guided_velocity(transformer, latents, 0.4, Conditions(text=text, negative=text, guidance=7.0))
    assert plain.abs().mean() > 0.01
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-5)


def test_guidance_without_a_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a negative"):
        Conditions(text=NO_TEXT.text, guidance=4.0)


def test_a_cast_transformer_has_the_dtypes_of_a_loaded_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Second route: diffusers' own ``from_pretrained(dtype=…)``."""
    folder = tmp_path_factory.mktemp("transformer")
    SMALL.build_transformer().save_pretrained(folder)
    loaded = WanTransformer3DModel.from_pretrained(folder, dtype=torch.bfloat16)
    cast = cast_like_pretrained(SMALL.build_transformer(), torch.bfloat16)
    expected = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    assert {name: parameter.dtype for name, parameter in cast.named_parameters()} == expected
