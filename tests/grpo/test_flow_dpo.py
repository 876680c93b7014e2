"""Flow-DPO: its loss against closed forms and finite differences, its pairs, and a preference that it learns."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.grpo.test_trainer import logged
from tests.grpo.toy import CONFIG, PROMPTS, SHAPE, brightness_ranking, embed, make_models, run
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.flow_dpo import PairBatch, dpo_loss
from vggrpo.grpo.flow_matching import NoiseDraws
from vggrpo.grpo.lesson import TrainingContext
from vggrpo.grpo.preference import SWAY, Pair, Ranking, choose_pairs
from vggrpo.grpo.processes import Processes
from vggrpo.policy.adapter import LoraSettings, adapter_parameters, add_adapter
from vggrpo.policy.rollout import collect
from vggrpo.policy.sampling import Conditions, sample_ode
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

DPO = replace(CONFIG, objective="dpo", pairs=2, noise_draws=2, guidance=1.0)
DRAWS = NoiseDraws(seed=3, iteration=1, group=0, count=2, draws=3, shift=3.0)
BETA = 500.0


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def policy() -> WanTransformer3DModel:
    """With an adapter that changes nothing yet."""
    transformer = make_models().transformer
    add_adapter(transformer, LoraSettings(rank=2, alpha=4.0), seed=0)
    return transformer


def moved(transformer: WanTransformer3DModel, *, by: float = 0.05) -> None:
    """The adapter does something."""
    for number, parameter in enumerate(adapter_parameters(transformer).values()):
        parameter.data += by * draw(*parameter.shape, seed=number)


def batch(
    *, winners: Tensor | None = None, losers: Tensor | None = None, first_frame: Tensor | None = None
) -> PairBatch:
    return PairBatch(
        winners=draw(2, *SHAPE, seed=1) if winners is None else winners,
        losers=draw(2, *SHAPE, seed=2) if losers is None else losers,
        usable=torch.ones(2, dtype=torch.bool),
        conditions=Conditions(text=embed("a prompt"), first_frame=first_frame),
        draws=DRAWS,
        members=slice(0, 2),
        number=0,
        beta=BETA,
    )


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_linear_model_is_the_closed_form() -> None:
    """v = (b + θ) x: e − e_ref = θ² ⟨x²⟩ + 2 θ ⟨x (b x − y)⟩, and dL/dθ = −σ(−m) dm/dθ."""
    torch.manual_seed(0)
    base, theta = 0.4, torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    noisy, target = torch.randn(2, 64, dtype=torch.float64), torch.randn(2, 64, dtype=torch.float64)
    error = ((base + theta) * noisy - target).square().mean(1) - (base * noisy - target).square().mean(1)
    found = dpo_loss(error[:1], error[1:], beta=BETA)
    found.loss.sum().backward()
    squares, products = noisy.square().mean(1), (noisy * (base * noisy - target)).mean(1)
    value = float(theta.detach())
    gap = value**2 * squares + 2 * value * products
    margin = -BETA / 2 * float((gap[0] - gap[1]).detach())
    slope = -BETA / 2 * float((2 * value * squares + 2 * products) @ torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert float(found.margin.detach()) == pytest.approx(margin)
    assert float(found.loss.detach()) == pytest.approx(math.log1p(math.exp(-margin)))
    assert float(theta.grad) == pytest.approx(-slope / (1 + math.exp(margin)))


def test_the_gradient_of_a_transformer_is_its_finite_difference(policy: WanTransformer3DModel) -> None:
    moved(policy)
    parameters = list(adapter_parameters(policy).values())
    direction = [draw(*parameter.shape, seed=90 + number) for number, parameter in enumerate(parameters)]

    def loss() -> Tensor:
        return batch().loss(policy, 1).loss.sum()

    loss().backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True))
    values = []
    for sign in (1.0, -2.0):
        for parameter, towards in zip(parameters, direction, strict=True):
            parameter.data += sign * 1e-3 * towards
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=2e-2)
    assert abs(slope) > 1e-3


def test_at_adapter_zero_the_loss_is_log_two(policy: WanTransformer3DModel) -> None:
    for index in range(DRAWS.draws):
        found = batch().loss(policy, index)
        assert torch.equal(found.loss, torch.full((2,), math.log(2.0)))
        assert {name: float(value.abs().max()) for name, value in found.logged.items()} == dict.fromkeys(
            found.logged, 0
        )


def test_equal_videos_cannot_be_told_apart_whatever_the_adapter(policy: WanTransformer3DModel) -> None:
    """The noise and its fraction are the pair's, not the video's."""
    moved(policy)
    same = draw(2, *SHAPE, seed=1)
    margin = batch(winners=same, losers=same).loss(policy, 0).logged["dpo/margin"]
    torch.testing.assert_close(margin, torch.zeros(2), atol=1e-3, rtol=0.0)
    there, back = (
        batch(winners=draw(2, *SHAPE, seed=a), losers=draw(2, *SHAPE, seed=b)).loss(policy, 0).logged["dpo/margin"]
        for a, b in ((1, 2), (2, 1))
    )
    torch.testing.assert_close(there, -back, rtol=1e-3, atol=1e-3)
    assert bool((there.abs() > 0.1).all())


def test_a_given_first_frame_is_no_part_of_the_loss(policy: WanTransformer3DModel) -> None:
    moved(policy)
    given = draw(1, SHAPE[0], 1, *SHAPE[2:], seed=7)
    other = draw(2, *SHAPE, seed=1)
    other[:, :, 0] = 0.0
    plain, changed = (batch(winners=w, first_frame=given).loss(policy, 0).loss for w in (None, other))
    assert torch.equal(plain, changed)
    assert not torch.equal(plain, batch().loss(policy, 0).loss)


def test_noise_is_the_clips_own_and_evenly_spread() -> None:
    draws = replace(DRAWS, count=4)
    table = torch.stack([draws.fractions(range(4), draw=index) for index in range(3)]).double()
    unshifted = (table / (3.0 - 2.0 * table)).flatten().sort().values
    torch.testing.assert_close(unshifted.diff(), torch.full((11,), 1 / 12, dtype=torch.float64), atol=1e-6, rtol=0.0)
    assert torch.equal(draws.fractions([2], draw=1), table[1, 2:3].float())
    device = torch.device("cpu")
    noise = draws.noise(range(4), draw=1, shape=SHAPE, device=device)
    assert torch.equal(draws.noise([2], draw=1, shape=SHAPE, device=device), noise[2:3])
    others = [draws.noise([2], draw=0, shape=SHAPE, device=device)]
    others += [replace(draws, **{name: 9}).noise([2], draw=1, shape=SHAPE, device=device) for name in ("seed", "group")]
    assert all(not torch.equal(other, noise[2:3]) for other in others)


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_best_against_worst_then_second_best_against_second_worst() -> None:
    order = torch.tensor([0.0, 5.0, math.nan, -4.0, 2.0, -1.0])
    pairs = choose_pairs(order, motion=None, count=3, floor=0.0)
    assert pairs == (Pair(winner=1, loser=3), Pair(winner=4, loser=5))
    assert choose_pairs(order, motion=None, count=1, floor=0.0) == pairs[:1]


def test_equal_or_unranked_videos_are_no_pair() -> None:
    assert choose_pairs(torch.tensor([1.0, 1.0, math.nan]), motion=None, count=1, floor=0.0) == ()
    assert choose_pairs(torch.full((4,), math.nan), motion=None, count=1, floor=0.0) == ()


def test_standing_still_does_not_win() -> None:
    """The best video is frozen: the next best wins; a sway less is no stillness; unknown motion is in no pair."""
    order, motion = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 0.2, 0.3])
    assert choose_pairs(order, motion=motion, count=1, floor=0.5) == (Pair(winner=1, loser=2),)
    assert choose_pairs(order, motion=motion, count=1, floor=0.0) == (Pair(winner=0, loser=2),)
    swaying = torch.tensor([0.0, 1.9 * SWAY, 1.9 * SWAY])
    assert choose_pairs(order, motion=swaying, count=1, floor=0.5) == (Pair(winner=0, loser=2),)
    unknown = torch.tensor([math.nan, 0.2, 0.2])
    assert choose_pairs(order, motion=unknown, count=1, floor=0.5) == (Pair(winner=1, loser=2),)
    with pytest.raises(ValueError, match="needs the videos' motion"):
        choose_pairs(order, motion=None, count=1, floor=0.5)


# --- training --------------------------------------------------------------------------------------------------------


def train(out: Path, config: GrpoConfig, *, rank: object = brightness_ranking) -> list[dict[str, float]]:
    run(out, config, models=replace(make_models(), rank=rank))
    return logged(out)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_toy_preference_rises(tmp_path: Path, sign: float) -> None:
    """Bright (or dark) videos are preferred, and videos get so, also from prompts and noise that were held out."""

    def rank(latents: Latents) -> Ranking:
        found = brightness_ranking(latents)
        return replace(found, scores={"liking": sign * found.scores["brightness"]})

    learning = {"learning_rate": 1e-2, "dpo_beta": 10.0, "pairs": 4}
    config = replace(DPO, iterations=10, group_size=8, micro_batch=8, evaluate_every=10, **learning)
    rows = train(tmp_path, config, rank=rank)
    assert rows[1]["preference/liking/winner"] > rows[1]["preference/liking/mean"] > rows[1]["preference/liking/loser"]
    assert rows[1]["loss"] == pytest.approx(math.log(2.0), abs=1e-6)
    # The same prompts and seeds with and without the adapter: nothing but learning makes a difference.
    assert sign * rows[-1]["eval/motion_smoothness/gain"] > 0.03


@pytest.mark.parametrize("source", ["policy", "base"])
def test_who_draws_the_videos(tmp_path: Path, source: str) -> None:
    """Those of the second iteration are the policy's of then, or the base's: other weights, other videos, or not."""
    seen: dict[float, list[Tensor]] = {}
    for rate in (1e-30, 1e-1):
        videos = seen.setdefault(rate, [])

        def rank(latents: Latents, videos: list[Tensor] = videos) -> Ranking:
            videos.append(latents.tensor.clone())
            return brightness_ranking(latents)

        config = replace(DPO, iterations=2, groups=1, pairs_from=source, learning_rate=rate)
        train(tmp_path / str(rate), config, rank=rank)
    (first, second), (again, other) = seen.values()
    assert torch.equal(first, again)
    assert torch.equal(second, other) == (source == "base")
    assert first.shape == (DPO.group_size, *SHAPE)


def test_its_videos_are_the_rollouts_without_their_noise(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def rank(latents: Latents) -> Ranking:
        seen.append(latents.tensor)
        return brightness_ranking(latents)

    train(tmp_path, replace(DPO, iterations=1, groups=1), rank=rank)
    models, settings = make_models(), DPO.rollout_settings
    processes = Processes.open(device=torch.device("cpu"), out=tmp_path)
    context = TrainingContext(
        config=replace(DPO, groups=1), models=models, prompts=PROMPTS, processes=processes, phase=lambda _: None
    )
    conditions = context.conditions(1, 0)
    drawn = collect(
        models.transformer, conditions, settings, shape=SHAPE, group=0, seed=context.seed(1), count=DPO.group_size
    )
    noise = torch.cat([draw(1, *SHAPE, seed=seed) for seed in drawn.seeds])
    expected = sample_ode(
        models.transformer, noise, conditions.expanded(len(noise)), steps=DPO.steps, shift=DPO.flow_shift
    )
    torch.testing.assert_close(seen[0], expected.tensor)


def test_what_cannot_be_paired_is_dropped_and_counted(tmp_path: Path) -> None:
    """Of two groups of four one video is ranked in the first and all in the second: of four pairs two are left."""

    def rank(latents: Latents) -> Ranking:
        found = brightness_ranking(latents)
        found.scores["brightness"][1:4] = math.nan
        return found

    row = train(tmp_path, replace(DPO, iterations=1), rank=rank)[0]
    assert (row["pairs/used"], row["pairs/dropped"], row["preference/nan_frac"]) == (2.0, 2.0, 3 / 8)
    assert row["preference/brightness/winner"] > row["preference/brightness/loser"]
    assert not any(name.startswith(("ratio/", "reward/", "advantage/")) for name in row)


@pytest.mark.parametrize(
    ("score", "words"), [(math.nan, "no video could be ranked"), (1.0, "no two videos of a group could be told apart")]
)
def test_nothing_to_learn_from(tmp_path: Path, score: float, words: str) -> None:
    def rank(latents: Latents) -> Ranking:
        count = len(latents.tensor)
        return Ranking(scores={"x": torch.full((count,), score)}, motion=torch.ones(count))

    with pytest.raises(UserError, match=f"2 iterations in a row changed nothing: {words}"):
        train(tmp_path, replace(DPO, iterations=9, max_skipped=2), rank=rank)


def test_rewards_as_preference_are_weighed_as_the_advantage_weighs_them(tmp_path: Path) -> None:
    """Two rewards that contradict each other: the weights decide who wins."""

    def rank(latents: Latents) -> Ranking:
        bright = latents.tensor.mean((1, 2, 3, 4))
        scores = {"motion_smoothness": bright, "scene_smoothness": -1e3 * bright, "geometry_consistency": bright}
        return Ranking(scores=scores, motion=torch.ones(len(bright)))

    winners = []
    for dark in (0.9, 1.1):
        weights = replace(CONFIG.weights, motion_smoothness=1.0, scene_smoothness=dark)
        config = replace(DPO, iterations=1, preference="reward", weights=weights)
        row = train(tmp_path / str(dark), config, rank=rank)[0]
        winners.append(row["preference/motion_smoothness/winner"] - row["preference/motion_smoothness/loser"])
    assert winners[0] > 0 > winners[1]


def test_a_ranking_must_be_brought(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a ranking"):
        run(tmp_path, DPO)
