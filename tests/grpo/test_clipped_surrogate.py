"""The surrogate against its formulas: gradients, torch's own KL, and Monte Carlo under the old policy."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from scipy.fft import dctn
from torch import Tensor

from vggrpo.grpo.clipped_surrogate import (
    OldStep,
    SurrogateSettings,
    clipped_surrogate,
    gaussian_kl,
    ratio_norm,
    step_loss,
    velocity_kl,
)
from vggrpo.policy.adapter import LoraSettings, adapter_disabled, adapter_parameters, add_adapter
from vggrpo.policy.rollout import Rollout, RolloutSettings, collect, replay, replay_reference
from vggrpo.policy.sampling import Conditions
from vggrpo.policy.schedule import noise_grid
from vggrpo.policy.transitions import TRANSITIONS, StepResult, take_step
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.runtime.errors import UserError

SHAPE = (3, 2, 2, 4, 4)
DIMENSIONS = 64
GRID = noise_grid(10, shift=3.0)
ALL = sorted(TRANSITIONS)
PLAIN = SurrogateSettings(kl="none", clip_range=0.2)
GUARD = SurrogateSettings(kl="none", clip_range=0.2, ratio_norm=True)


def draw(*, seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def old_of(step: StepResult) -> OldStep:
    return OldStep(log_prob=step.log_prob.detach(), mean=step.mean.detach())


# --- Clipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),  # inside: as if there were no clip
        (0.9, -2.0, 1.8, 2.0),
        (1.3, 2.0, -2.4, 0.0),  # left the range where the advantage pushes: no gradient
        (0.7, -2.0, 1.6, 0.0),
        (0.7, 2.0, -1.4, -2.0),  # left it on the other side: pulled back
        (1.3, -2.0, 2.6, 2.0),
        (1.3, 0.0, 0.0, 0.0),
    ],
)
def test_the_clip_is_inactive_inside_and_free_of_gradient_outside(
    ratio: float, advantage: float, loss: float, gradient: float
) -> None:
    given = torch.tensor([ratio], requires_grad=True)
    found = clipped_surrogate(given, torch.tensor([advantage]), settings=PLAIN)
    (slope,) = torch.autograd.grad(found.loss.sum(), given)
    assert found.loss.item() == pytest.approx(loss)
    assert slope.item() == pytest.approx(gradient)
    assert found.clipped.item() == (gradient == 0.0 and advantage != 0.0)


def test_advantages_are_clipped() -> None:
    how = replace(PLAIN, advantage_clip=5.0)
    found = clipped_surrogate(torch.ones(4), torch.tensor([-9.0, -4.0, 4.0, 9.0], dtype=torch.float64), settings=how)
    assert found.loss.tolist() == [5.0, 4.0, -4.0, -5.0]
    assert found.loss.dtype == torch.float32


# --- Ratios ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cells", [None, 2])
@pytest.mark.parametrize("index", [0, 4, 8])
def test_both_ratios_have_the_known_mean_and_spread_under_the_old_policy(
    name: str, cells: int | None, index: int
) -> None:
    """40,000 draws from the old policy: log ρ has mean −w mean δ² and deviation 2ws rms(δ)/√D; RatioNorm 0 and 1."""
    transition = replace(TRANSITIONS[name], scored_cells=cells)
    count, shape = 40_000, (1, 1, 1, 4, 4)
    latents, velocity = draw(seed=0, shape=shape), draw(seed=1, shape=shape)
    many = (count, 1, 1, 4, 4)
    old = take_step(
        transition,
        velocity.expand(many),
        latents.expand(many),
        grid=GRID,
        index=index,
        generator=torch.Generator().manual_seed(2),
    )
    moved = velocity + 0.3 * draw(seed=3, shape=shape)
    new = take_step(transition, moved.expand(many), latents.expand(many), grid=GRID, index=index, next_latents=old.next)
    counted = dctn((new.mean - old.mean)[0, 0, 0].numpy(), norm="ortho")[:cells, :cells]
    delta = float((counted**2).mean())
    plain, guarded = new.log_prob - old.log_prob, ratio_norm(new, old_of(old)).log()
    factor = 1.0 if name == "cps" else 0.5 / old.std**2
    spread = math.sqrt(delta / counted.size)
    assert plain.mean().item() == pytest.approx(-factor * delta, abs=5 * 2 * factor * old.std * spread / count**0.5)
    assert plain.std().item() == pytest.approx(2 * factor * old.std * spread, rel=0.03)
    assert guarded.mean().item() == pytest.approx(0.0, abs=5 * spread / count**0.5)
    assert guarded.std().item() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("name", sorted({"flow_sde", "linear", "constant"}))
def test_for_gaussian_densities_it_is_grpo_guards_own_formula(name: str) -> None:
    """ρ = exp[(log π_θ − log π_old + mean δ² / 2s²) s], each sample with its own bias."""
    latents, velocity = draw(seed=0), draw(seed=1)
    old = take_step(TRANSITIONS[name], velocity, latents, grid=GRID, index=3)
    moved = velocity + draw(seed=2) * torch.tensor([0.0, 0.1, 1.0]).view(3, 1, 1, 1, 1)
    new = take_step(TRANSITIONS[name], moved, latents, grid=GRID, index=3, next_latents=old.next)
    bias = (new.mean - old.mean).square().flatten(1).mean(1) / (2 * old.std**2)
    expected = torch.exp((new.log_prob - old.log_prob + bias) * old.std)
    torch.testing.assert_close(ratio_norm(new, old_of(old)), expected)
    assert ratio_norm(new, old_of(old))[0] == 1.0


@pytest.mark.parametrize("name", ALL)
def test_before_an_update_both_losses_are_minus_the_advantage(name: str) -> None:
    velocity, advantages = draw(seed=1), torch.tensor([-1.0, 0.0, 2.0])
    step = take_step(TRANSITIONS[name], velocity, draw(seed=0), grid=GRID, index=2)
    plain = step_loss(step, old_of(step), advantages, reference=None, settings=PLAIN)
    guard = step_loss(step, old_of(step), advantages, reference=None, settings=GUARD)
    assert torch.equal(plain.ratio, torch.ones(3))
    assert torch.equal(guard.ratio, torch.ones(3))
    assert torch.equal(plain.loss, -advantages)
    torch.testing.assert_close(guard.loss, -advantages / abs(step.delta))


@pytest.mark.parametrize("index", range(1, 9))
def test_ratio_norm_makes_the_gradient_of_flow_sde_the_same_at_every_step(index: int) -> None:
    """∂L/∂v = Â ξ/D · (1 + σ²(1 − t)/2t), and the bracket is 1 + a²/2 for Flow-SDE whatever t is."""
    latents, velocity = draw(seed=0), draw(seed=1).requires_grad_()
    advantages = torch.tensor([-1.0, 0.5, 2.0])
    with torch.no_grad():
        old = take_step(TRANSITIONS["flow_sde"], velocity, latents, grid=GRID, index=index)
    new = take_step(TRANSITIONS["flow_sde"], velocity, latents, grid=GRID, index=index, next_latents=old.next)
    loss = step_loss(new, old_of(old), advantages, reference=None, settings=GUARD).loss
    (gradient,) = torch.autograd.grad(loss.sum(), velocity)
    noise = (old.next - old.mean) / old.std
    expected = advantages.view(3, 1, 1, 1, 1) * noise / DIMENSIONS * (1 + 0.7**2 / 2)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [PLAIN, GUARD], ids=["plain", "ratio norm"])
@pytest.mark.parametrize("cells", [None, 2])
@pytest.mark.parametrize("name", ALL)
def test_gradient_of_the_loss_against_finite_differences(
    name: str, cells: int | None, settings: SurrogateSettings
) -> None:
    """Away from the old policy, with KL, along a random direction."""
    transition = replace(TRANSITIONS[name], scored_cells=cells)
    how = replace(settings, kl="gaussian", kl_weight=0.1)
    latents, direction, advantages = draw(seed=0), draw(seed=3), torch.tensor([-1.0, 0.5, 2.0])
    start = draw(seed=1)
    old = take_step(transition, start, latents, grid=GRID, index=4)
    reference = take_step(transition, start - 0.1 * draw(seed=4), latents, grid=GRID, index=4)

    def loss(velocity: Tensor) -> Tensor:
        new = take_step(transition, velocity, latents, grid=GRID, index=4, next_latents=old.next)
        return step_loss(new, old_of(old), advantages, reference=reference, settings=how).loss.sum()

    velocity = (start + 0.02 * draw(seed=2)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(velocity), velocity)
    size = 1e-2
    with torch.no_grad():
        numeric = (loss(velocity + size * direction) - loss(velocity - size * direction)) / (2 * size)
    analytic = (gradient * direction).sum()
    assert analytic.abs() > 1e-3
    torch.testing.assert_close(analytic, numeric, rtol=5e-3, atol=2e-4)


# --- KL --------------------------------------------------------------------------------------------------------------


def test_gaussian_kl_is_torchs_own() -> None:
    mean, reference = draw(seed=0), draw(seed=1)
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(mean, 0.3), normal(reference, 0.3)).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_kl(mean, reference, std=0.3), exact)


@pytest.mark.parametrize("name", ["flow_sde", "linear", "constant"])
@pytest.mark.parametrize("index", [1, 5, 8])
def test_gaussian_kl_is_the_velocity_kl_times_the_published_factor(name: str, index: int) -> None:
    """|Δ|/2 (1/σ + σ (1 − t)/2t)² of the velocities' mean square."""
    latents, velocity, other = draw(seed=0), draw(seed=1), draw(seed=2)
    new, reference = (
        take_step(TRANSITIONS[name], v, latents, grid=GRID, index=index, next_latents=latents)
        for v in (velocity, other)
    )
    t, size = float(GRID[index]), -new.delta
    sigma = new.std / math.sqrt(size)
    factor = size / 2 * (1 / sigma + sigma * (1 - t) / (2 * t)) ** 2
    exact = gaussian_kl(new.mean, reference.mean, std=new.std)
    torch.testing.assert_close(exact, factor * velocity_kl(velocity, other), rtol=1e-3, atol=1e-5)


def test_kl_has_a_gradient_in_the_policy_and_none_in_the_reference() -> None:
    for kl in (velocity_kl, lambda a, b: gaussian_kl(a, b, std=0.5)):
        policy, reference = draw(seed=0).requires_grad_(), draw(seed=1).requires_grad_()
        kl(policy, reference).sum().backward()
        assert policy.grad.abs().min() > 0
        assert reference.grad is None


def test_kl_without_its_reference_is_a_mistake_of_the_caller() -> None:
    step = take_step(TRANSITIONS["constant"], draw(seed=1), draw(seed=0), grid=GRID, index=2)
    for how in (SurrogateSettings(), SurrogateSettings(kl="gaussian")):
        with pytest.raises(ValueError, match="reference"):
            step_loss(step, old_of(step), torch.zeros(3), reference=None, settings=how)
        without = step_loss(step, old_of(step), torch.zeros(3), reference=None, settings=replace(how, kl_weight=0.0))
        assert not without.kl.any()


# --- With a real policy ----------------------------------------------------------------------------------------------

SETTINGS = RolloutSettings(steps=5, window_size=2, window_range=(1, 3), micro_batch=4)
CONDITIONS = Conditions(text=draw(seed=5, shape=(1, 5, 16)))


@pytest.fixture
def policy() -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = VideoArchitecture(
            num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=16, latent_channels=2, text_dim=16
        )
        transformer = architecture.build_transformer().eval()
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
        add_adapter(transformer, LoraSettings(rank=2, alpha=4.0), seed=0)
        for parameter in adapter_parameters(transformer).values():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return transformer


@pytest.fixture
def rollout(policy: WanTransformer3DModel) -> Rollout:
    return collect(policy, CONDITIONS, SETTINGS, shape=(2, 3, 4, 4), group=0, seed=0, count=4)


@pytest.mark.parametrize("kind", ["velocity", "gaussian"])
def test_kl_to_the_reference_is_zero_with_the_adapter_off_and_has_a_gradient_with_it_on(
    policy: WanTransformer3DModel, rollout: Rollout, kind: str
) -> None:
    how = SurrogateSettings(kl=kind, kl_weight=1.0)
    nothing = torch.zeros(4)
    reference = replay_reference(policy, rollout, CONDITIONS, SETTINGS, step=1)
    old = OldStep(log_prob=rollout.log_prob[:, 1], mean=rollout.mean[:, 1])
    with adapter_disabled(policy):
        off = replay(policy, rollout, CONDITIONS, SETTINGS, step=1)
    assert torch.equal(step_loss(off, old, nothing, reference=reference, settings=how).kl, nothing)
    on = replay(policy, rollout, CONDITIONS, SETTINGS, step=1)
    loss = step_loss(on, old, nothing, reference=reference, settings=how)
    assert loss.kl.min() > 1e-6
    torch.testing.assert_close(loss.loss, loss.kl)
    loss.loss.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in adapter_parameters(policy).values())


@pytest.mark.parametrize("settings", [PLAIN, GUARD], ids=["plain", "ratio norm"])
@pytest.mark.parametrize("name", ALL)
def test_a_step_down_the_loss_makes_better_videos_likelier(
    policy: WanTransformer3DModel, name: str, settings: SurrogateSettings
) -> None:
    how = replace(SETTINGS, transition=name)
    rollout = collect(policy, CONDITIONS, how, shape=(2, 3, 4, 4), group=0, seed=0, count=4)
    advantages = torch.tensor([1.0, -1.0, 0.0, 0.0])
    old = OldStep(log_prob=rollout.log_prob[:, 0], mean=rollout.mean[:, 0])
    new = replay(policy, rollout, CONDITIONS, how, step=0)
    step_loss(new, old, advantages, reference=None, settings=settings).loss.mean().backward()
    norm = sum(parameter.grad.square().sum() for parameter in adapter_parameters(policy).values()).sqrt()
    for parameter in adapter_parameters(policy).values():
        parameter.data -= 1e-2 * parameter.grad / norm
    with torch.no_grad():
        after = replay(policy, rollout, CONDITIONS, how, step=0)
    change = after.log_prob - rollout.log_prob[:, 0]
    assert change[0] - change[1] > 1e-6
    assert step_loss(after, old, advantages, reference=None, settings=settings).loss.mean() < 0


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_range": 0.0}, "clip range"),
        ({"clip_range": 1.0}, "clip range"),
        ({"clip_range": math.nan}, "clip range"),
        ({"advantage_clip": 0.0}, "advantage clip"),
        ({"kl_weight": -0.1}, "KL weight"),
        ({"kl_weight": math.nan}, "KL weight"),
    ],
)
def test_settings_that_cannot_train_are_the_users_mistake(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SurrogateSettings(**changes)
    assert "\n" not in str(caught.value)
