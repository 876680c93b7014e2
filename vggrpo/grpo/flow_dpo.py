"""``--objective dpo``: Flow-DPO, on pairs of a group's own videos (Liu et al. 2025, arXiv 2501.13918, paragraph 4).

    rollout    K videos a prompt along the ODE, by the policy or by the base model      collect_by_ode
    rank       scores and motion of every video, by whoever the models bring            preference, GrpoModels.rank
    loss       −log σ(m),   m = −β/2 [(e_w − e_w,ref) − (e_l − e_l,ref)]

e is the flow-matching error of the winner w or the loser l at the same noise and the same noise fraction, ref the
adapter switched off, and β constant over t (the paper found t-dependent β to be worse). At adapter 0 the loss is log 2.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vggrpo.grpo.advantage import AdvantageSettings, group_advantages
from vggrpo.grpo.flow_matching import NoiseDraws, NoisyClips, noisy_clips, without_guidance
from vggrpo.grpo.lesson import Lesson, PassLoss, TrainingContext
from vggrpo.grpo.preference import Pair, Ranking, choose_pairs
from vggrpo.policy.adapter import adapter_disabled
from vggrpo.policy.rollout import collect_by_ode, micro_batches
from vggrpo.policy.sampling import Conditions
from vggrpo.types import Latents

LOGGED = ("dpo/margin", "dpo/accuracy", "dpo/winner_gap", "dpo/loser_gap", "kl")
"""m; the share of m > 0; e − e_ref of winners (below 0 is better) and of losers; mean (v_θ − v_ref)²."""


@dataclass(frozen=True, kw_only=True)
class DpoLoss:
    """One value a pair; ``loss`` has the graph."""

    loss: Float[Tensor, " P"]
    margin: Float[Tensor, " P"]


def dpo_loss(winner_gap: Float[Tensor, " P"], loser_gap: Float[Tensor, " P"], *, beta: float) -> DpoLoss:
    """−log σ(−β/2 (winner_gap − loser_gap)), the gaps being errors under the policy less those under the reference."""
    margin = -0.5 * beta * (winner_gap - loser_gap)
    return DpoLoss(loss=F.softplus(-margin), margin=margin)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Some pairs of a group; a pass is one noise fraction of each, shared by its winner and its loser."""

    winners: Float[Tensor, "P C T h w"]
    losers: Float[Tensor, "P C T h w"]
    usable: Bool[Tensor, " P"]
    conditions: Conditions
    """Of the group's prompt."""
    draws: NoiseDraws
    members: slice
    """Which of the group's pairs."""
    number: int
    beta: float

    @property
    def passes(self) -> int:
        """Noise fractions of a pair."""
        return self.draws.draws

    def loss(self, transformer: WanTransformer3DModel, index: int) -> PassLoss:
        """The loss at draw ``index``; winners and losers go through the transformer together."""
        conditions = without_guidance(self.conditions.expanded(2 * len(self.winners)))
        noisy = self._noisy(transformer.device, conditions, index)
        with torch.no_grad(), adapter_disabled(transformer):
            reference = noisy.velocity(transformer, conditions)
        velocity = noisy.velocity(transformer, conditions)
        winner_gap, loser_gap = (noisy.error(velocity) - noisy.error(reference)).chunk(2)
        found = dpo_loss(winner_gap, loser_gap, beta=self.beta)
        moved = torch.stack(noisy.distance(velocity.detach(), reference).chunk(2)).mean(0)
        margin = found.margin.detach()
        logged = (margin, (margin > 0).to(margin.dtype), winner_gap.detach(), loser_gap.detach(), moved)
        return PassLoss(loss=found.loss, logged=dict(zip(LOGGED, logged, strict=True)))

    def _noisy(self, device: torch.device, conditions: Conditions, index: int) -> NoisyClips:
        pairs = range(self.draws.count)[self.members]
        noise = self.draws.noise(pairs, draw=index, shape=self.winners.shape[1:], device=device)
        fraction = self.draws.fractions(pairs, draw=index).to(device)
        return noisy_clips(
            torch.cat([self.winners, self.losers]).to(device),
            noise=torch.cat([noise, noise]),
            fraction=torch.cat([fraction, fraction]),
            conditions=conditions,
        )


@dataclass(frozen=True, kw_only=True)
class FlowDpo:
    """Flow-DPO; see the module's text. Raises a ValueError without somebody who ranks videos."""

    context: TrainingContext

    def __post_init__(self) -> None:
        """Somebody must say what is preferred."""
        if self.context.models.rank is None:
            raise ValueError("Flow-DPO needs a ranking of videos: these models were loaded without")

    def texts(self, iteration: int) -> Iterable[str]:
        """A prompt a group."""
        return [self.context.prompt(iteration, group) for group in self.context.groups]

    def prepare(self, iterations: range) -> None:
        """Nothing."""

    def lesson(self, iteration: int) -> Lesson:
        """Rollout, rank, pair."""
        context, config = self.context, self.context.config
        with context.phase("rollout"):
            videos = torch.cat([self._collect(iteration, group) for group in context.groups])
        with context.phase("rank"):
            ranking = self._ranking(videos)
            order = self._order(ranking)
            pairs = self._pairs(order, motion=ranking.motion)
        groups = videos.view(len(context.groups), config.group_size, *videos.shape[1:]).cpu()
        batches = [
            batch
            for group, members in zip(context.groups, groups, strict=True)
            for batch in self._batches(iteration, group, members=members, pairs=pairs[group])
        ]
        return Lesson(batches=batches, logged=LOGGED, metrics=_metrics(ranking, order, pairs, wanted=config.pairs))

    def why_nothing(self, metrics: Mapping[str, float]) -> str | None:
        """No pair."""
        if metrics["pairs/used"]:
            return None
        if metrics["preference/nan_frac"] == 1.0:
            return "no video could be ranked: look at samples/, or choose another --preference"
        return "no two videos of a group could be told apart: give more --group-size or a lower --pair-motion-floor"

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """Pairs, and how well they are told apart."""
        pairs = f"{metrics['pairs/used']:.0f} pairs ({metrics['pairs/dropped']:.0f} dropped)"
        return f"{pairs}; dpo accuracy {metrics['dpo/accuracy']:.2f}; kl {metrics['kl']:.2e}"

    def _collect(self, iteration: int, group: int) -> Tensor:
        """Videos of a group, of the policy or of the base model."""
        context, config = self.context, self.context.config
        transformer = context.models.transformer
        by_base = config.pairs_from == "base"
        sampler: AbstractContextManager[None] = adapter_disabled(transformer) if by_base else nullcontext()
        with sampler:
            return collect_by_ode(
                transformer,
                context.conditions(iteration, group),
                config.rollout_settings,
                shape=context.models.latent_shape,
                group=group,
                seed=context.seed(iteration),
                count=config.group_size,
            ).tensor

    def _ranking(self, videos: Tensor) -> Ranking:
        """Scores and motion [P, K] of the groups of all processes."""
        context = self.context
        assert context.models.rank is not None
        found = context.models.rank(Latents(tensor=videos))

        def gathered(values: Tensor) -> Tensor:
            rows = values.to(context.models.device, torch.float32).view(len(context.groups), -1)
            return context.processes.gather(rows).cpu()

        return Ranking(
            scores={name: gathered(values) for name, values in found.scores.items()},
            motion=None if found.motion is None else gathered(found.motion),
        )

    def _order(self, ranking: Ranking) -> Float[Tensor, "P K"]:
        """What the members of every group are ordered by; NaN for those that cannot be ranked."""
        config = self.context.config
        weights = config.weights.by_name if config.preference == "reward" else dict.fromkeys(ranking.scores, 1.0)
        found = group_advantages(ranking.scores, weights=weights, settings=AdvantageSettings())
        return found.values.masked_fill(~found.measured, math.nan)

    def _pairs(self, order: Float[Tensor, "P K"], *, motion: Float[Tensor, "P K"] | None) -> list[tuple[Pair, ...]]:
        """The pairs of every group of all processes."""
        config = self.context.config
        motions: Sequence[Tensor | None] = [None] * len(order) if motion is None else list(motion)
        return [
            choose_pairs(values, motion=moved, count=config.pairs, floor=config.pair_motion_floor)
            for values, moved in zip(order, motions, strict=True)
        ]

    def _batches(
        self, iteration: int, group: int, *, members: Float[Tensor, "K C T h w"], pairs: tuple[Pair, ...]
    ) -> list[PairBatch]:
        """Always ``config.pairs`` of them, so that processes keep step; those that were not found are not usable."""
        config = self.context.config
        usable = torch.arange(config.pairs) < len(pairs)
        filled = [*pairs, *[Pair(winner=0, loser=0)] * (config.pairs - len(pairs))]
        winners, losers = (members[list(side)] for side in zip(*((p.winner, p.loser) for p in filled), strict=True))
        draws = NoiseDraws(
            seed=config.seed,
            iteration=iteration,
            group=group,
            count=config.pairs,
            draws=config.noise_draws,
            shift=config.flow_shift,
        )
        return [
            PairBatch(
                winners=winners[some],
                losers=losers[some],
                usable=usable[some],
                conditions=self.context.conditions(iteration, group),
                draws=draws,
                members=some,
                number=group + place,
                beta=config.dpo_beta,
            )
            for place, some in enumerate(micro_batches(config.pairs, config.pairs_at_once))
        ]


def _metrics(
    ranking: Ranking, order: Float[Tensor, "P K"], pairs: Sequence[tuple[Pair, ...]], *, wanted: int
) -> dict[str, float]:
    """What was ranked, and how winners and losers differ."""
    used = sum(len(some) for some in pairs)
    found = {
        "pairs/used": float(used),
        "pairs/dropped": float(wanted * len(pairs) - used),
        "preference/nan_frac": float(order.isnan().double().mean()),
    }
    measured = dict(ranking.scores) | ({} if ranking.motion is None else {"motion": ranking.motion})
    for name, values in measured.items():
        found[f"preference/{name}/mean"] = float(values.double().nanmean())
        for side in ("winner", "loser"):
            chosen = [float(values[group, getattr(pair, side)]) for group, some in enumerate(pairs) for pair in some]
            found[f"preference/{name}/{side}"] = sum(chosen) / used if used else math.nan
    return found
