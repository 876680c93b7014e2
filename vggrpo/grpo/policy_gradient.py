"""``--objective grpo``: videos that the policy draws with noise, judged against the others of their group.

rollout    K videos a prompt: noisy inside a window of steps, ODE elsewhere        vggrpo.policy.rollout
guard      the base model's camera path at the group's first seeds                 motion_guard
reward     Φ_g reads cameras, depth, points and flow off the latents               reward_space
advantage  each reward standardised in its group, weighted mean                    advantage, judgement
loss       clipped surrogate + KL to the adapter switched off                      clipped_surrogate
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.grpo.clipped_surrogate import OldStep, SurrogateSettings, step_loss
from vggrpo.grpo.judgement import PATH_LENGTH, Verdict, judge_groups
from vggrpo.grpo.lesson import Lesson, PassLoss, TrainingContext
from vggrpo.grpo.reward_space import GUARDS
from vggrpo.policy.adapter import adapter_disabled
from vggrpo.policy.rollout import Rollout, RolloutSettings, collect, micro_batches, replay, replay_reference
from vggrpo.policy.sampling import Conditions
from vggrpo.rewards import reward_names
from vggrpo.types import Latents

LOGGED = ("kl", "clip_frac", "ratio/mean")


@dataclass(frozen=True, kw_only=True)
class JudgedGroup:
    """A rollout with its verdict. ``usable`` marks the members that are trained on."""

    rollout: Rollout
    conditions: Conditions
    advantages: Float[Tensor, " K"]
    usable: Bool[Tensor, " K"]


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """Some members of a judged group, as the rollout ran them; a pass replays one window step."""

    group: JudgedGroup
    members: slice
    number: int
    rollout: RolloutSettings
    surrogate: SurrogateSettings

    @property
    def usable(self) -> Bool[Tensor, " B"]:
        """Videos with an advantage."""
        return self.group.usable[self.members]

    @property
    def passes(self) -> int:
        """Steps of the window."""
        return self.rollout.window_size

    def loss(self, transformer: WanTransformer3DModel, index: int) -> PassLoss:
        """Replay step ``index`` of the window."""
        group, members, device = self.group, self.members, transformer.device
        drawn, conditions = group.rollout, group.conditions
        reference = None
        if self.surrogate.kl != "none" and self.surrogate.kl_weight > 0.0:
            reference = replay_reference(transformer, drawn, conditions, self.rollout, step=index, members=members)
        new = replay(transformer, drawn, conditions, self.rollout, step=index, members=members)
        loss = step_loss(
            new,
            OldStep(log_prob=drawn.log_prob[members, index].to(device), mean=drawn.mean[members, index].to(device)),
            group.advantages[members].to(device, torch.float32),
            reference=reference,
            settings=self.surrogate,
        )
        logged = (loss.kl, loss.clipped.to(loss.ratio.dtype), loss.ratio)
        return PassLoss(loss=loss.loss, logged=dict(zip(LOGGED, logged, strict=True)), ratio=loss.ratio)


def window_batches(
    group: JudgedGroup, *, rollout: RolloutSettings, surrogate: SurrogateSettings
) -> tuple[WindowBatch, ...]:
    """A group in the micro-batches of its rollout, which stay whole: their numbers depend on it."""
    return tuple(
        WindowBatch(
            group=group, members=members, number=group.rollout.group + place, rollout=rollout, surrogate=surrogate
        )
        for place, members in enumerate(micro_batches(group.rollout.count, rollout.micro_batch))
    )


@dataclass(frozen=True, kw_only=True)
class PolicyGradient:
    """GRPO; see the module's text."""

    context: TrainingContext

    def texts(self, iteration: int) -> Iterable[str]:
        """A prompt a group."""
        return [self.context.prompt(iteration, group) for group in self.context.groups]

    def prepare(self, iterations: range) -> None:
        """Nothing."""

    def lesson(self, iteration: int) -> Lesson:
        """Rollout, guard, reward, advantage."""
        context, config = self.context, self.context.config
        with context.phase("rollout"):
            rollouts = [self._collect(iteration, group, count=config.group_size) for group in context.groups]
        base_path = None
        if config.motion_guard:
            with context.phase("guard"), adapter_disabled(context.models.transformer):
                clips = min(config.guard_clips, config.group_size)
                base = [self._collect(iteration, group, count=clips) for group in context.groups]
                base_path = self._path_length(base)
        with context.phase("reward"):
            verdict = judge_groups(self._score(rollouts), base_path=base_path, config=config)
        batches = [batch for rollout in rollouts for batch in self._batches(rollout, verdict, iteration)]
        return Lesson(batches=batches, logged=LOGGED, metrics=verdict.metrics, has_ratio=True)

    def why_nothing(self, metrics: Mapping[str, float]) -> str | None:
        """No reward, or no spread of rewards."""
        if metrics["reward/nan_frac"] == 1.0:
            return "no video could be judged (every reward is NaN): look at samples/, and at the reward weights"
        if metrics["group/zero_std_ratio"] == 1.0:
            return "all videos of a group got the same reward: give more --group-size or a higher --noise-level"
        return None

    def in_words(self, metrics: Mapping[str, float]) -> str:
        """Rewards, camera path and distance."""
        weighed = self.context.config.weights.by_name
        rewards = ", ".join(f"{name} {metrics[f'reward/{name}/mean']:.4f}" for name in weighed)
        return f"{rewards}; camera path {metrics[f'guard/{PATH_LENGTH}']:.3f}; kl {metrics['kl']:.2e}"

    def _batches(self, rollout: Rollout, verdict: Verdict, iteration: int) -> tuple[WindowBatch, ...]:
        config = self.context.config
        group = JudgedGroup(
            rollout=rollout,
            conditions=self.context.conditions(iteration, rollout.group),
            advantages=verdict.advantages[rollout.group],
            usable=verdict.usable[rollout.group],
        )
        return window_batches(group, rollout=config.rollout_settings, surrogate=config.surrogate_settings)

    def _collect(self, iteration: int, group: int, *, count: int) -> Rollout:
        """``count`` members of one group of an iteration; the first ones are the same whatever the count."""
        context = self.context
        rollout = collect(
            context.models.transformer,
            context.conditions(iteration, group),
            context.config.rollout_settings,
            shape=context.models.latent_shape,
            group=group,
            seed=context.seed(iteration),
            count=count,
        )
        # Its states wait in main memory; the update brings back a micro-batch at a time.
        return rollout.to(torch.device("cpu"))

    def _score(self, rollouts: list[Rollout]) -> dict[str, Tensor]:
        """Rewards and guards [P, K] of the groups of all processes; this one's videos are judged in one go."""
        scores = self.context.models.rewards.score(self._latents(rollouts))
        return {
            name: self.context.processes.gather(scores[name].view(len(rollouts), -1)).cpu()
            for name in (*reward_names(), *GUARDS)
        }

    def _path_length(self, rollouts: list[Rollout]) -> Tensor:
        """Camera paths [P, n] of the groups of all processes."""
        lengths = self.context.models.rewards.camera_path_length(self._latents(rollouts))
        return self.context.processes.gather(lengths.view(len(rollouts), -1)).cpu()

    def _latents(self, rollouts: list[Rollout]) -> Latents:
        tensors = torch.cat([rollout.latents.tensor for rollout in rollouts])
        return Latents(tensor=tensors.to(self.context.models.device))
