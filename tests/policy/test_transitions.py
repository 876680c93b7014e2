"""Transitions against the reference's table, against closed forms of Gaussian data, and against torch's own Normal.

Gaussian data x_0 ~ N(0, q) have v(x, t) = (t − (1 − t) q) / V(t) · x with V(t) = (1 − t)² q + t², so a step is linear,
x′ = A x + s ξ, and its variance A² V(t) + s² is exact, without sampling.
"""

import math
from dataclasses import replace

import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from vggrpo.policy.schedule import noise_grid
from vggrpo.policy.transitions import ODE, TRANSITIONS, Transition, take_step
from vggrpo.runtime.errors import UserError

SHAPE = (2, 3, 2, 4, 4)
GRID = noise_grid(10, shift=3.0)
ALL = sorted(TRANSITIONS)
SDES = ("flow_sde", "linear", "constant")


def batch(*, seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


# --- The reference's table for N = 10, shift 3 -----------------------------------------------------------------------

S_TABLE = {
    "flow_sde": [0.700, 0.738, 0.532, 0.441, 0.388, 0.350, 0.320, 0.290, 0.256],
    "constant": [0.057, 0.061, 0.066, 0.072, 0.078, 0.087, 0.097, 0.110, 0.127],
    "linear": [0.182, 0.189, 0.195, 0.201, 0.206, 0.209, 0.207, 0.199, 0.175],
    "cps": [0.917, 0.878, 0.832, 0.778, 0.713, 0.634, 0.535, 0.408, 0.238],
}
G_TABLE = {
    "flow_sde": [0.051, 0.069, 0.113, 0.160, 0.219, 0.296, 0.406, 0.574, 0.868],
    "constant": [0.63, 0.68, 0.73, 0.80, 0.88, 0.98, 1.10, 1.26, 1.49],
    "linear": [0.196, 0.222, 0.254, 0.297, 0.354, 0.434, 0.554, 0.752, 1.14],
    "cps": [0.066, 0.112, 0.157, 0.198, 0.232, 0.252, 0.250, 0.215, 0.132],
}


@pytest.mark.parametrize("name", ALL)
def test_standard_deviations_are_those_of_the_reference_table(name: str) -> None:
    ours = [take_step(TRANSITIONS[name], batch(), batch(), grid=GRID, index=k).std for k in range(9)]
    assert ours == pytest.approx(S_TABLE[name], abs=6e-4)


@pytest.mark.parametrize("name", ALL)
def test_gradient_sizes_are_those_of_the_reference_table(name: str) -> None:
    """|∂μ/∂v| by autograd; over s, or for CPS (whose log-probability drops 1/2s²) times 2s."""
    sizes = []
    for index in range(9):
        velocity = batch().requires_grad_()
        step = take_step(TRANSITIONS[name], velocity, batch(seed=1), grid=GRID, index=index)
        (gradient,) = torch.autograd.grad(step.mean.sum(), velocity)
        assert gradient.std() < 1e-6
        sizes.append(abs(float(gradient.mean())) * (2.0 * step.std if name == "cps" else 1.0 / step.std))
    assert sizes == pytest.approx(G_TABLE[name], abs=6e-3 if name == "constant" else 6e-4, rel=4e-3)


# --- The mean --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("index", [0, 1, 5, 8])
def test_the_mean_is_the_published_one(name: str, index: int) -> None:
    """Second route: the SDE's drift as Flow-GRPO prints it, and CPS from its two ends."""
    latents, velocity = batch().double(), batch(seed=1).double()
    t, t_next = float(GRID[index]), float(GRID[index + 1])
    delta = t_next - t
    step = take_step(TRANSITIONS[name], velocity.float(), latents.float(), grid=GRID, index=index)
    if name == "cps":
        clean, noise = latents - t * velocity, latents + (1 - t) * velocity
        expected = clean * (1 - t_next) + noise * math.sqrt(t_next**2 - step.std**2)
    else:
        sigma = step.std / math.sqrt(-delta)
        drift = sigma**2 / (2 * t)
        expected = latents * (1 + drift * delta) + velocity * (1 + drift * (1 - t)) * delta
    torch.testing.assert_close(step.mean.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("index", range(10))
def test_without_noise_every_step_is_eulers_to_the_bit(name: str, index: int) -> None:
    latents, velocity = batch(), batch(seed=1)
    euler = latents + float(GRID[index + 1] - GRID[index]) * velocity
    quiet = take_step(TRANSITIONS[name].with_noise(0.0), velocity, latents, grid=GRID, index=index)
    assert torch.equal(quiet.next, euler)
    assert torch.equal(take_step(ODE, velocity, latents, grid=GRID, index=index).next, euler)
    assert quiet.std == 0.0


# --- Marginal variance -----------------------------------------------------------------------------------------------


def variance_after(transition: Transition, variance: float, *, grid: Tensor, index: int, q: float) -> float:
    """Var[x′] of one step from x ~ N(0, ``variance``), read off the step's own coefficients."""
    t = float(grid[index])
    slope = (t - (1 - t) * q) / ((1 - t) ** 2 * q + t**2)
    one = torch.ones(1, 1, 1, 1, 1)
    step = take_step(transition, slope * one, one, grid=grid, index=index)
    return float(step.mean) ** 2 * variance + step.std**2


def marginal(t: float, *, q: float) -> float:
    return (1 - t) ** 2 * q + t**2


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("index", range(9))
def test_a_step_adds_the_known_excess_and_no_more(name: str, index: int) -> None:
    """Data at one point (q = 0): σ²Δ²/t + σ⁴Δ²/4t² for the SDEs, exactly none for CPS."""
    t, t_next = float(GRID[index]), float(GRID[index + 1])
    delta = t_next - t
    after = variance_after(TRANSITIONS[name], t**2, grid=GRID, index=index, q=0.0)
    std = take_step(TRANSITIONS[name], batch(), batch(), grid=GRID, index=index).std
    sigma_squared = std**2 / -delta
    excess = 0.0 if name == "cps" else sigma_squared * delta**2 / t + sigma_squared**2 * delta**2 / (4 * t**2)
    assert after - t_next**2 == pytest.approx(excess, abs=1e-6)


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("q", [0.0, 0.25, 2.0])
def test_sdes_keep_the_marginal_variance_of_gaussian_data(name: str, q: float) -> None:
    """From t = 0.95 to 0.3: the error is of first order, so twice the steps leave half of it, and it goes to zero."""
    errors = []
    for steps in (100, 200, 400):
        grid = torch.linspace(0.95, 0.3, steps + 1, dtype=torch.float64)
        variance = marginal(0.95, q=q)
        for index in range(steps):
            variance = variance_after(TRANSITIONS[name], variance, grid=grid, index=index, q=q)
        errors.append(variance / marginal(0.3, q=q) - 1)
    assert abs(errors[-1]) < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("q", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("t", [0.9, 0.6, 0.3])
def test_cps_takes_off_what_its_text_says(q: float, t: float) -> None:
    """(1 − cos)² (1 − t)² Var[x_0 | x_t] in the limit of short steps; nothing where the data are certain."""
    grid = torch.tensor([t, t - 1e-4, 0.0], dtype=torch.float64)
    after = variance_after(TRANSITIONS["cps"], marginal(t, q=q), grid=grid, index=0, q=q)
    uncertain = q * t**2 / marginal(t, q=q)
    expected = (1 - math.cos(0.8 * math.pi / 2)) ** 2 * (1 - t) ** 2 * uncertain
    assert marginal(t - 1e-4, q=q) - after == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize("name", ALL)
def test_draws_have_the_mean_and_spread_that_are_scored(name: str) -> None:
    """Monte Carlo over 2 · 10⁵ values: the drawn noise is the density's."""
    shape = (2, 1, 1, 320, 320)
    zeros = torch.zeros(shape)
    step = take_step(TRANSITIONS[name], zeros, zeros, grid=GRID, index=4, generator=torch.Generator().manual_seed(0))
    noise = (step.next - step.mean) / step.std
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)


# --- Log-probability -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow_sde", "linear", "constant"])
def test_scored_cells_give_the_density_of_the_lowest_frequencies(name: str) -> None:
    """Of scipy's own cosine transform, by torch's own normal: an orthonormal transform keeps s."""
    step = take_step(replace(TRANSITIONS[name], scored_cells=2), batch(), batch(seed=1), grid=GRID, index=3)
    sample, mean = (
        torch.from_numpy(dctn(x.numpy(), axes=(-2, -1), norm="ortho"))[..., :2, :2] for x in (step.next, step.mean)
    )
    expected = torch.distributions.Normal(mean, step.std).log_prob(sample).flatten(1).mean(1)
    torch.testing.assert_close(step.log_prob, expected)


@pytest.mark.parametrize("name", ALL)
def test_all_cells_score_as_no_transform_does(name: str) -> None:
    """Parseval: squares keep their sum, also where more cells are asked for than there are."""
    results = [
        take_step(
            replace(TRANSITIONS[name], scored_cells=cells),
            batch(),
            batch(seed=1),
            grid=GRID,
            index=3,
            next_latents=batch(seed=2),
        )
        for cells in (None, batch().shape[-1], 99)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result.log_prob, results[0].log_prob)
        assert torch.equal(result.mean, results[0].mean)


@pytest.mark.parametrize("name", ALL)
def test_log_probability_is_the_mean_of_torchs_normal(name: str) -> None:
    step = take_step(TRANSITIONS[name], batch(), batch(seed=1), grid=GRID, index=3)
    if name == "cps":
        expected = -(step.next - step.mean).square().flatten(1).mean(1)
    else:
        expected = torch.distributions.Normal(step.mean, step.std).log_prob(step.next).flatten(1).mean(1)
    assert step.log_prob.dtype == torch.float32
    torch.testing.assert_close(step.log_prob, expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("index", [0, 4, 8])
def test_gradient_of_log_probability_against_finite_differences(name: str, index: int) -> None:
    latents, direction = batch(seed=1), batch(seed=2)
    velocity = batch().requires_grad_()
    sample = take_step(TRANSITIONS[name], velocity, latents, grid=GRID, index=index).next

    def score(v: Tensor) -> Tensor:
        return take_step(TRANSITIONS[name], v, latents, grid=GRID, index=index, next_latents=sample).log_prob

    (gradient,) = torch.autograd.grad(score(velocity).sum(), velocity)
    analytic = (gradient * direction).flatten(1).sum(1)
    # A quadratic: central differences have no truncation error, so the step may be large enough for fp32.
    size = 0.5
    with torch.no_grad():
        numeric = (score(velocity + size * direction) - score(velocity - size * direction)) / (2 * size)
    assert analytic.abs().min() > 1e-4
    torch.testing.assert_close(analytic, numeric, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_scoring_what_was_drawn_gives_the_same_bits(name: str) -> None:
    velocity = batch().requires_grad_()
    with torch.no_grad():
        drawn = take_step(TRANSITIONS[name], velocity, batch(seed=1), grid=GRID, index=2)
    kept = drawn.next.clone().requires_grad_()
    scored = take_step(TRANSITIONS[name], velocity, batch(seed=1), grid=GRID, index=2, next_latents=kept)
    assert torch.equal(scored.log_prob, drawn.log_prob)
    assert torch.equal(scored.mean, drawn.mean)
    scored.log_prob.sum().backward()
    assert velocity.grad is not None
    assert kept.grad is None


def test_low_precision_inputs_are_stepped_in_fp32() -> None:
    step = take_step(TRANSITIONS["constant"], batch().bfloat16(), batch(seed=1).bfloat16(), grid=GRID, index=2)
    assert {step.mean.dtype, step.next.dtype, step.log_prob.dtype} == {torch.float32}


# --- Edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1.0, 1 - 1e-6, 0.9995])
def test_the_first_step_of_flow_sde_does_not_blow_up(start: float) -> None:
    """At 1 − 1e-6 the plain formula would give s ≈ 130."""
    grid = GRID.clone()
    grid[0] = start
    assert take_step(TRANSITIONS["flow_sde"], batch(), batch(), grid=grid, index=0).std == pytest.approx(0.7, abs=6e-3)


@pytest.mark.parametrize("name", ALL)
def test_the_last_step_is_deterministic_and_has_no_density(name: str) -> None:
    latents, velocity = batch(), batch(seed=1)
    step = take_step(TRANSITIONS[name], velocity, latents, grid=GRID, index=9)
    torch.testing.assert_close(step.next, latents - float(GRID[9]) * velocity)
    assert step.log_prob.isnan().all()
    with pytest.raises(ValueError, match="no density"):
        take_step(TRANSITIONS[name], velocity, latents, grid=GRID, index=9, next_latents=latents)


@pytest.mark.parametrize(("name", "level"), [("cps", 1.01), ("constant", -0.1), ("linear", math.nan)])
def test_a_senseless_noise_level_is_the_users_mistake(name: str, level: float) -> None:
    with pytest.raises(UserError, match="noise level") as caught:
        TRANSITIONS[name].with_noise(level)
    assert "\n" not in str(caught.value)


def test_one_generator_a_sample_makes_a_sample_independent_of_its_batch() -> None:
    latents, velocity = batch(), batch(seed=1)
    streams = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = take_step(TRANSITIONS["constant"], velocity, latents, grid=GRID, index=1, generator=streams)
    alone = take_step(
        TRANSITIONS["constant"],
        velocity[1:],
        latents[1:],
        grid=GRID,
        index=1,
        generator=[torch.Generator().manual_seed(6)],
    )
    assert torch.equal(both.next[1:], alone.next)
