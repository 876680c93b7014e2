"""Rollout and replay of a real (small) Wan transformer with a LoRA that already does something.

Oracles: the ODE sampler outside the window, the same numbers under other batch sizes, ratio 1 to the bit.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.policy.closed_form import SIZES, Gaussian
from vggrpo.policy.adapter import LoraSettings, adapter_disabled, adapter_parameters, add_adapter
from vggrpo.policy.backbone import cast_like_pretrained
from vggrpo.policy.rollout import RolloutSettings, collect, draw_window, micro_batches, replay, replay_reference
from vggrpo.policy.sampling import Conditions, draw_noise, guided_velocity, sample_ode
from vggrpo.policy.transitions import TRANSITIONS
from vggrpo.pretraining.video import VideoArchitecture
from vggrpo.runtime.errors import UserError

CPU = torch.device("cpu")
SMALL = VideoArchitecture(
    num_attention_heads=2, attention_head_dim=12, num_layers=1, ffn_dim=16, latent_channels=2, text_dim=16
)
SHAPE = (2, 3, 4, 4)
TEXT, NEGATIVE = (torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
CONDITIONS = Conditions(text=TEXT, negative=NEGATIVE)
SETTINGS = RolloutSettings(steps=6, window_size=2, window_range=(1, 3), micro_batch=2)
FIRST_FRAME = torch.randn(1, 2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_policy(dtype: torch.dtype) -> WanTransformer3DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SMALL.build_transformer().eval()
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
        cast_like_pretrained(transformer, dtype)
        add_adapter(transformer, LoraSettings(rank=2, alpha=4.0), seed=0)
        for parameter in adapter_parameters(transformer).values():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return transformer


@pytest.fixture(scope="module")
def policies() -> dict[str, WanTransformer3DModel]:
    return {name: build_policy(dtype) for name, dtype in PRECISIONS.items()}


@pytest.fixture
def policy(policies: dict[str, WanTransformer3DModel]) -> Iterator[WanTransformer3DModel]:
    """The fp32 one; its weights and gradients are as before after each test."""
    transformer = policies["fp32"]
    before = {name: parameter.detach().clone() for name, parameter in adapter_parameters(transformer).items()}
    yield transformer
    for name, parameter in adapter_parameters(transformer).items():
        parameter.data.copy_(before[name])
        parameter.grad = None


class Calls:
    """Counts how often a transformer is asked, and with how many videos."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.batches: list[int] = []
        self._handle = transformer.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: object, _args: object, kwargs: dict[str, Tensor]) -> None:
        self.batches.append(len(kwargs["hidden_states"]))

    def __enter__(self) -> "Calls":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


# --- Ratio 1 before the first update ---------------------------------------------------------------------------------


def assert_replay_is_exact(policy: WanTransformer3DModel, settings: RolloutSettings) -> None:
    """Three members in batches of two: a whole and a broken micro-batch."""
    rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=3)
    assert rollout.states.dtype == getattr(torch, settings.state_dtype)
    for step, members in itertools.product(range(rollout.window_size), micro_batches(3, 2)):
        again = replay(policy, rollout, CONDITIONS, settings, step=step, members=members)
        ratio = torch.exp(again.log_prob - rollout.log_prob[members, step])
        assert again.log_prob.requires_grad
        assert torch.equal(ratio, torch.ones_like(ratio))
        assert torch.equal(again.mean, rollout.mean[members, step])
        assert again.std == float(rollout.std[step])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("window", [(0, 1), (0, 3), (3, 4)])
@pytest.mark.parametrize("transition", sorted(TRANSITIONS))
def test_ratio_is_exactly_one_before_the_first_update(
    policies: dict[str, WanTransformer3DModel], transition: str, window: tuple[int, int], precision: str
) -> None:
    settings = RolloutSettings(
        steps=5,
        transition=transition,
        window_range=window,
        window_size=window[1] - window[0],
        micro_batch=2,
        state_dtype="bfloat16" if precision == "bf16" else "float32",
    )
    assert_replay_is_exact(policies[precision], settings)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float16"])
def test_ratio_is_exactly_one_under_guidance_and_for_any_kept_dtype(
    policies: dict[str, WanTransformer3DModel], state_dtype: str, precision: str
) -> None:
    """A kept state is rounded before it is scored, so it does not matter what the model itself is held in."""
    assert_replay_is_exact(policies[precision], replace(SETTINGS, guidance=3.0, state_dtype=state_dtype))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ratio_is_exactly_one_with_mirrored_noise_and_scored_cells(
    policies: dict[str, WanTransformer3DModel], precision: str
) -> None:
    settings = replace(SETTINGS, same_noise=True, mirrored_noise=True, scored_cells=2)
    assert_replay_is_exact(policies[precision], settings)


def test_another_policy_has_another_ratio(policy: WanTransformer3DModel) -> None:
    """Or the test above would prove nothing."""
    rollout = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=0, seed=0, count=2)
    for parameter in adapter_parameters(policy).values():
        parameter.data += 0.05
    again = replay(policy, rollout, CONDITIONS, SETTINGS, step=0)
    assert (again.log_prob - rollout.log_prob[:, 0]).abs().min() > 1e-5


def test_a_first_frame_is_no_part_of_the_policy(policy: WanTransformer3DModel) -> None:
    """Image to video: the given frame stays to the bit, and probabilities are those of the other frames."""
    conditions = replace(CONDITIONS, first_frame=FIRST_FRAME)
    for guidance in (1.0, 3.0):
        settings = replace(SETTINGS, guidance=guidance)
        rollout = collect(policy, conditions, settings, shape=SHAPE, group=0, seed=0, count=3)
        assert torch.equal(rollout.latents.tensor[:, :, :1], FIRST_FRAME.expand(3, -1, -1, -1, -1))
        assert rollout.states.shape == (3, 3, 2, 2, 4, 4)
        for members in micro_batches(3, 2):
            again = replay(policy, rollout, conditions, settings, step=1, members=members)
            assert torch.equal(again.log_prob, rollout.log_prob[members, 1])
            again.log_prob.sum().backward()
        assert all(parameter.grad is not None for parameter in adapter_parameters(policy).values())


# --- The rollout is the ODE outside its window -----------------------------------------------------------------------


def euler(policy: WanTransformer3DModel, latents: Tensor, conditions: Conditions, indices: range) -> Tensor:
    grid = SETTINGS.grid
    conditions = replace(conditions, text=conditions.text.expand(len(latents), -1, -1))
    with torch.no_grad():
        for index in indices:
            velocity = guided_velocity(policy, latents, float(grid[index]), conditions)
            latents = latents + float(grid[index + 1] - grid[index]) * velocity
    return latents


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_outside_the_window_the_rollout_is_the_ode(policy: WanTransformer3DModel, guidance: float) -> None:
    settings = replace(SETTINGS, guidance=guidance, transition="flow_sde")
    conditions = replace(CONDITIONS, guidance=guidance)
    rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=2)
    noise = torch.cat([draw_noise((1, *SHAPE), seed=seed, device=CPU) for seed in rollout.seeds])
    start, end = rollout.window_start, rollout.window_start + 2
    assert torch.equal(rollout.states[:, 0], euler(policy, noise, conditions, range(start)))
    ended = euler(policy, rollout.states[:, -1], conditions, range(end, 6))
    assert torch.equal(rollout.latents.tensor, ended)
    assert (rollout.states[:, 1] - rollout.states[:, 0]).std() > 0.3


@pytest.mark.parametrize("transition", sorted(TRANSITIONS))
def test_next_to_no_noise_is_next_to_the_ode(policy: WanTransformer3DModel, transition: str) -> None:
    settings = replace(SETTINGS, transition=transition, noise_level=1e-6)
    rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=1)
    noise = draw_noise((1, *SHAPE), seed=rollout.seeds[0], device=CPU)
    plain = sample_ode(policy, noise, CONDITIONS, steps=6, shift=3.0).tensor
    torch.testing.assert_close(rollout.latents.tensor, plain, rtol=1e-4, atol=1e-4)


def test_the_rollout_of_gaussian_data_has_their_spread() -> None:
    """A velocity in closed form, carried through the whole rollout: N(0, 0.3²) within the sampler's own error."""
    settings = RolloutSettings(steps=60, window_size=20, window_range=(10, 30), transition="constant", micro_batch=4)
    conditions = Conditions(text=torch.zeros(1, 1, 32))
    rollout = collect(Gaussian(**SIZES), conditions, settings, shape=(2, 3, 20, 20), group=0, seed=0, count=8)
    assert float(rollout.latents.tensor.std()) == pytest.approx(0.3, rel=0.1)


# --- Randomness ------------------------------------------------------------------------------------------------------


def test_members_do_not_depend_on_batch_or_group_size(policy: WanTransformer3DModel) -> None:
    many = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=4, seed=9, count=5)
    few = collect(policy, CONDITIONS, replace(SETTINGS, micro_batch=3), shape=SHAPE, group=4, seed=9, count=3)
    torch.testing.assert_close(many.latents.tensor[:3], few.latents.tensor, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(many.log_prob[:3], few.log_prob, rtol=1e-4, atol=1e-5)
    assert many.window_start == few.window_start


def test_members_differ_and_groups_differ(policy: WanTransformer3DModel) -> None:
    one, other = (collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=g, seed=0, count=3) for g in (0, 1))
    again = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=0, seed=0, count=3)
    assert torch.equal(one.latents.tensor, again.latents.tensor)
    assert len({*one.seeds, *other.seeds}) == 6
    for a, b in itertools.combinations([*one.latents.tensor, *other.latents.tensor], 2):
        assert (a - b).abs().mean() > 0.1


def test_shared_noise_is_shared_and_members_still_differ(policy: WanTransformer3DModel) -> None:
    settings = replace(SETTINGS, same_noise=True, window_range=(1, 3))
    rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=2)
    assert rollout.seeds[0] == rollout.seeds[1]
    # Up to rounding: the rows of one matrix product need not be summed in the same order.
    torch.testing.assert_close(rollout.states[0, 0], rollout.states[1, 0], rtol=1e-5, atol=1e-5)
    assert (rollout.states[0, 1] - rollout.states[1, 1]).abs().mean() > 0.01


@pytest.mark.parametrize("micro_batch", [2, 3])
def test_mirrors_take_the_opposite_noise(policy: WanTransformer3DModel, micro_batch: int) -> None:
    """Also when a pair falls into two micro-batches; the last of an odd number of members has no mirror."""
    one_step = replace(SETTINGS, window_size=1, window_range=(1, 2), same_noise=True, micro_batch=micro_batch)
    plain, mirrored = (
        collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=5)
        for settings in (one_step, replace(one_step, mirrored_noise=True))
    )
    noise, independent = ((found.states[:, 1] - found.mean[:, 0]) / found.std[0] for found in (mirrored, plain))
    for first in (0, 2):
        torch.testing.assert_close(noise[first + 1], -noise[first], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(noise[first], independent[first], rtol=1e-4, atol=1e-4)
        assert (independent[first + 1] + independent[first]).abs().mean() > 0.5
    torch.testing.assert_close(noise[4], independent[4], rtol=1e-4, atol=1e-4)
    assert noise.std() == pytest.approx(1.0, abs=0.1)


def test_scored_cells_change_the_probability_and_no_video(policy: WanTransformer3DModel) -> None:
    whole, low = (
        collect(policy, CONDITIONS, replace(SETTINGS, scored_cells=cells), shape=SHAPE, group=0, seed=0, count=2)
        for cells in (None, 2)
    )
    assert torch.equal(whole.latents.tensor, low.latents.tensor)
    assert (whole.log_prob - low.log_prob).abs().min() > 1e-4


def test_windows_are_drawn_once_a_group_over_the_whole_range() -> None:
    settings = RolloutSettings(steps=10, window_size=3, window_range=(1, 7))
    starts = [draw_window(settings, group=group, seed=0) for group in range(200)]
    assert set(starts) == {1, 2, 3, 4}
    assert max(starts.count(start) for start in set(starts)) < 80
    assert starts == [draw_window(settings, group=group, seed=0) for group in range(200)]


# --- Cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 12])
def test_a_rollout_costs_a_forward_a_step_and_keeps_the_window_only(policy: WanTransformer3DModel, steps: int) -> None:
    settings = replace(SETTINGS, steps=steps)
    with Calls(policy) as calls:
        rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=5)
    assert calls.batches == [2] * steps + [2] * steps + [1] * steps
    assert rollout.states.shape == (5, 3, *SHAPE)
    assert rollout.mean.shape == (5, 2, *SHAPE)
    assert rollout.log_prob.shape == (5, 2)
    assert not rollout.mean.requires_grad


def test_guidance_runs_both_texts_in_one_batch_in_rollout_and_replay(policy: WanTransformer3DModel) -> None:
    settings = replace(SETTINGS, guidance=3.0)
    with Calls(policy) as calls:
        rollout = collect(policy, CONDITIONS, settings, shape=SHAPE, group=0, seed=0, count=2)
        replay(policy, rollout, CONDITIONS, settings, step=0)
    assert calls.batches == [4] * 7


# --- Reference policy ------------------------------------------------------------------------------------------------


def test_the_reference_is_the_policy_without_its_adapter(policy: WanTransformer3DModel) -> None:
    rollout = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=0, seed=0, count=2)
    reference = replay_reference(policy, rollout, CONDITIONS, SETTINGS, step=1)
    with adapter_disabled(policy):
        off = replay(policy, rollout, CONDITIONS, SETTINGS, step=1)
    assert torch.equal(reference.velocity, off.velocity)
    assert not reference.velocity.requires_grad
    on = replay(policy, rollout, CONDITIONS, SETTINGS, step=1)
    assert (on.velocity - reference.velocity).abs().mean() > 1e-3


@pytest.mark.parametrize("between", ["nothing", "reference", "checkpointing"])
def test_gradients_survive_the_reference_and_gradient_checkpointing(
    policy: WanTransformer3DModel, between: str
) -> None:
    """Switching the adapter off and on between forward and backward, or recomputing activations: the same gradients."""
    rollout = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=0, seed=0, count=2)
    expected = torch.autograd.grad(
        replay(policy, rollout, CONDITIONS, SETTINGS, step=0).log_prob.sum(), [*adapter_parameters(policy).values()]
    )
    assert all(gradient.abs().max() > 0 for gradient in expected)
    if between == "checkpointing":
        policy.enable_gradient_checkpointing()
    step = replay(policy, rollout, CONDITIONS, SETTINGS, step=0)
    if between != "nothing":
        replay_reference(policy, rollout, CONDITIONS, SETTINGS, step=0)
    step.log_prob.sum().backward()
    policy.disable_gradient_checkpointing()
    for parameter, gradient in zip(adapter_parameters(policy).values(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_members_may_be_named_by_number_and_rollouts_may_be_moved(policy: WanTransformer3DModel) -> None:
    rollout = collect(policy, CONDITIONS, SETTINGS, shape=SHAPE, group=0, seed=0, count=4).to(CPU)
    picked = replay(policy, rollout, CONDITIONS, SETTINGS, step=0, members=torch.tensor([3, 0]))
    torch.testing.assert_close(picked.log_prob, rollout.log_prob[[3, 0], 0], rtol=1e-4, atol=1e-5)


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": "sde"}, "no transition 'sde'"),
        ({"noise_level": 0.0}, "nothing to learn"),
        ({"transition": "cps", "noise_level": 1.5}, "noise level"),
        ({"steps": 1}, "at least 2"),
        ({"steps": 4}, "window range 0 5 must lie within 0 3"),
        ({"steps": 5}, "last is never trained"),
        ({"window_range": (3, 3)}, "window range"),
        ({"window_range": (-1, 5)}, "window range"),
        ({"window_size": 6}, "does not fit"),
        ({"window_size": 0}, "does not fit"),
        ({"micro_batch": 0}, "micro-batch"),
        ({"shift": 0.0}, "shift"),
    ],
)
def test_settings_that_cannot_train_are_the_users_mistake(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RolloutSettings(**changes)
    assert "\n" not in str(caught.value)


def test_guidance_needs_a_negative(policy: WanTransformer3DModel) -> None:
    with pytest.raises(ValueError, match="negative"):
        collect(policy, Conditions(text=TEXT), replace(SETTINGS, guidance=2.0), shape=SHAPE, group=0, seed=0, count=2)
