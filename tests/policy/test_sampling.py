"""Our sampler against diffusers' own pipeline; see also ``test_closed_forms``."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor

from tests.policy.small_pipeline import SMALL
from vggrpo.policy import sampling
from vggrpo.policy.backbone import TextConditioner, load_transformer, predict_velocity
from vggrpo.policy.sampling import Conditions, draw_noise, guided_velocity, sample_ode
from vggrpo.policy.schedule import noise_grid, shift_noise
from vggrpo.runtime.errors import UserError

CPU = torch.device("cpu")
PROMPT = "a red cube on a grey striped floor, the camera orbits left"


@pytest.fixture(scope="module")
def transformer(pipeline_folder: Path) -> WanTransformer3DModel:
    return load_transformer(pipeline_folder, dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def text(pipeline_folder: Path) -> TextConditioner:
    return TextConditioner.load(pipeline_folder, dtype=torch.float32, device=CPU, max_tokens=SMALL.max_tokens)


@pytest.fixture
def noise() -> Tensor:
    return draw_noise((1, 4, 3, 8, 8), seed=5, device=CPU)


def test_grid_runs_from_noise_to_clean() -> None:
    grid = noise_grid(10, shift=3.0)
    assert grid.dtype == torch.float64
    assert grid[0] == 1.0
    assert grid[-1] == 0.0
    assert (grid.diff() < 0).all()
    assert grid[5].item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


def test_shift_one_is_no_shift_and_shifts_multiply() -> None:
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(shift_noise(u, shift=1.0), u)
    torch.testing.assert_close(shift_noise(shift_noise(u, shift=2.0), shift=3.0), shift_noise(u, shift=6.0))


def test_no_steps_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="step"):
        noise_grid(0, shift=3.0)


def test_noise_is_a_function_of_the_seed() -> None:
    shape = (1, 4, 3, 8, 8)
    assert torch.equal(draw_noise(shape, seed=1, device=CPU), draw_noise(shape, seed=1, device=CPU))
    assert not torch.equal(draw_noise(shape, seed=1, device=CPU), draw_noise(shape, seed=2, device=CPU))


def test_sampler_agrees_with_the_stock_pipeline(
    monkeypatch: pytest.MonkeyPatch,
    pipeline_folder: Path,
    transformer: WanTransformer3DModel,
    text: TextConditioner,
    noise: Tensor,
) -> None:
    """Same folder, same noise, same prompt, and diffusers' grid in place of ours: the same latents."""
    pipeline = WanPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        PROMPT,
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=noise.clone(),
        max_sequence_length=SMALL.max_tokens,
        output_type="latent",
    ).frames
    monkeypatch.setattr(sampling, "noise_grid", lambda _steps, *, shift: pipeline.scheduler.sigmas.double())
    conditions = Conditions(text=text.embed(PROMPT), negative=text.embed(""), guidance=4.0)
    ours = sample_ode(transformer, noise, conditions, steps=3, shift=3.0).tensor
    assert (ours - noise).abs().mean() > 0.05
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_prompts_are_embedded_as_the_stock_pipeline_does(pipeline_folder: Path, text: TextConditioner) -> None:
    pipeline = WanPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    stock, negative = pipeline.encode_prompt(PROMPT, "", max_sequence_length=SMALL.max_tokens)
    torch.testing.assert_close(text.embed(PROMPT), stock)
    torch.testing.assert_close(text.embed(""), negative)
    length = text.count_tokens(PROMPT)
    assert text.embed(PROMPT)[:, :length].abs().sum(-1).min() > 0
    assert not text.embed(PROMPT)[:, length:].any()


def test_one_timestep_a_token_equals_one_for_all(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    """The first frame's tokens come first: with all frames at the same fraction both routes agree."""
    embedding = torch.randn(1, 6, 32)
    plain = predict_velocity(transformer, noise, torch.full((1, 3), 0.7), embedding)
    timestep = torch.full((1, 3 * 16), 700.0)
    a_token = transformer(hidden_states=noise, timestep=timestep, encoder_hidden_states=embedding, return_dict=False)[0]
    torch.testing.assert_close(plain, a_token, rtol=1e-4, atol=1e-5)


def test_a_clean_first_frame_gets_timestep_zero_on_its_own_tokens(
    transformer: WanTransformer3DModel, noise: Tensor
) -> None:
    embedding = torch.randn(1, 6, 32)
    fraction = torch.tensor([[0.0, 0.6, 0.6]])
    mask = torch.ones(1, 1, 3, 8, 8)
    mask[:, :, 0] = 0
    timestep = (mask[0][0][:, ::2, ::2] * 600.0).flatten()[None]  # as diffusers' image-to-video pipeline has it
    expected = transformer(hidden_states=noise, timestep=timestep, encoder_hidden_states=embedding, return_dict=False)
    torch.testing.assert_close(predict_velocity(transformer, noise, fraction, embedding), expected[0])


def test_guidance_extrapolates_from_the_unconditional_velocity(
    transformer: WanTransformer3DModel, noise: Tensor
) -> None:
    positive, negative = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    fraction = torch.full((1, 3), 0.5)
    with_text = predict_velocity(transformer, noise, fraction, positive)
    without = predict_velocity(transformer, noise, fraction, negative)
    guided = guided_velocity(transformer, noise, 0.5, Conditions(text=positive, negative=negative, guidance=3.0))
    torch.testing.assert_close(guided, without + 3.0 * (with_text - without), rtol=1e-4, atol=1e-4)
    plain = guided_velocity(transformer, noise, 0.5, Conditions(text=positive))
    torch.testing.assert_close(plain, with_text)


def test_progress_counts_every_step_and_may_stop(transformer: WanTransformer3DModel, noise: Tensor) -> None:
    seen = []

    def stop_at_two(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_ode(transformer, noise, Conditions(text=torch.zeros(1, 2, 32)), steps=5, shift=3.0, on_step=stop_at_two)
    assert seen == [(1, 5), (2, 5)]
