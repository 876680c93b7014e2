"""Everything that decides the result of ``train``: one flat page of settings, saved as ``config.yaml`` by every run.

The defaults are the paper's where it gives them (reference method.md paragraph 4); what a smaller machine needs is in
``vggrpo.grpo.defaults``, one table by preset. Nothing heavy is imported: this page is also the command line's help.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vggrpo.runtime.errors import UserError

if TYPE_CHECKING:
    from vggrpo.grpo.advantage import AdvantageSettings
    from vggrpo.grpo.clipped_surrogate import SurrogateSettings
    from vggrpo.policy.adapter import LoraSettings
    from vggrpo.policy.rollout import RolloutSettings

Tracker = Literal["tensorboard", "trackio"]

MAY_CHANGE_ON_RESUME = frozenset(
    {"iterations", "checkpoint_every", "evaluate_every", "sample_every", "trackers", "early_stop_patience"}
    # Where files lie.
    | {"model_folder", "offline", "geometry_weights", "latent_geometry"}
    # Memory against speed, for a run that ran out of memory: the same numbers up to rounding.
    | {"micro_batch", "gradient_checkpointing", "guidance_passes", "reward_batch", "dense_frames", "shard_base"}
    | {"compile", "attention"}
)
"""Settings that decide how far a run goes, what it shows and what it takes, not what it computes on the way."""

_RATIO_NORM_CLIP = 1e-4
"""GRPO-Guard's ratios stray by about rms(δ) / √D from 1, some 1e-6: a clip range above this never acts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardWeights:
    """Weight of each reward's standardised value in the advantage; 0 leaves a reward out (it is still logged)."""

    motion_smoothness: float = 1.0
    """Does the camera move without jerks?"""
    geometry_consistency: float = 1.0
    """Do the frames agree on one static scene?"""
    scene_smoothness: float = 0.0
    """Do scene points keep to continuous paths? In the paper's figure, but not in its formula."""
    more: Mapping[str, float] = field(default_factory=dict)
    """Weights of rewards of one's own, by name; their files are given by `reward_files`."""

    @property
    def by_name(self) -> dict[str, float]:
        """The weights that are not 0."""
        return {name: weight for name, weight in self.all_by_name.items() if weight}

    @property
    def all_by_name(self) -> dict[str, float]:
        """Every weight."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "more"} | dict(self.more)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrpoConfig:
    """Settings of a VGGRPO fine-tune. Raises a UserError for what cannot work."""

    objective: Literal["grpo", "sft", "dpo"] = "grpo"
    """What is learnt. grpo: VGGRPO. To compare with it, from as many videos an iteration: sft, true clips with their
    captions; dpo, pairs of the model's own videos, ranked (Flow-DPO)."""
    preset: str = "tiny"
    """The video and geometry models to use; it also chooses the other defaults (see `presets`)."""
    iterations: int = 40
    """Iterations in all; each samples groups, judges them and updates the adapter."""
    group_size: int = 64
    """K: videos of one prompt that are compared with each other. At least 2, better 8 or more."""
    groups: int = 8
    """Groups (prompts) an iteration; with several processes a multiple of their number."""
    seed: int = 0
    """Every random number is derived from it."""
    adapter: Path | None = None
    """A LoRA to go on from: a .safetensors file or its folder. Its rank and alpha replace those below."""

    model_folder: Path | None = None
    """A folder with the video model (a diffusers pipeline), in place of the preset's own place for it."""
    geometry: str | None = None
    """Which geometry model judges; the preset's if not given."""
    geometry_weights: Path | None = None
    """Its weights, in place of the preset's own place for them."""
    latent_geometry: Path | None = None
    """A latent geometry model that `train-lgm` made for this video model."""
    offline: bool = False
    """Load nothing over the network."""
    height: int | None = None
    """Height of the videos in pixels; the preset's if not given."""
    width: int | None = None
    """Width of the videos in pixels; the preset's if not given."""
    frames: int | None = None
    """Frames of the videos, 4 n + 1; the preset's if not given."""
    first_frame: Path | None = None
    """An image that every video starts from, for presets that take one."""

    prompts: Path | None = None
    """Training prompts, one a line; captions of the procedural world if not given."""
    evaluation_prompts: Path | None = None
    """Held-out prompts, one a line; if not given, a part of FILE, or captions that are not trained on."""
    training_captions: int = 512
    """How many captions of the procedural world to train on (without `prompts`); with sft the most clips."""

    steps: int = 10
    """Denoising steps of a rollout."""
    flow_shift: float = 3.0
    """Flow shift of the noise grid, of rollouts and evaluation alike."""
    guidance: float = 1.0
    """Classifier-free guidance in rollout and replay; 1 is off and half as costly."""
    transition: Literal["flow_sde", "linear", "constant", "cps"] = "constant"
    """How the steps inside the window add noise."""
    noise_level: float | None = None
    """Strength of that noise; the transition's own default if not given."""
    window_size: int = 3
    """Consecutive steps that are noisy and trained; the others follow the ODE."""
    window_first: int = 0
    """First step that the window may start at."""
    window_end: int = 5
    """The window ends before this step; the last step is never trained."""
    same_noise: bool = False
    """grpo: whether all members of a group start from the same noise. Without noise in the steps, as with dpo, each has
    its own in any case."""
    mirrored_noise: bool = False
    """Whether members in pairs draw opposite noise in the window: with the same start, what is even in the noise
    cancels from the gradient."""
    scored_cells: int | None = None
    """Count a step's probability on this many of the lowest spatial frequencies of its noise, along each axis; on all
    if not given. Cameras and layouts move in the lowest few, the rest is noise in the gradient."""
    micro_batch: int = 8
    """Videos in the transformer at once: memory against speed. Rollout and replay share it."""
    guidance_passes: Literal["together", "apart"] = "together"
    """With guidance: the prompt and the empty prompt in one batch, or one after the other in half the memory."""
    compile: Literal["off", "inductor", "aot_eager", "eager"] = "off"
    """torch.compile for the transformer's blocks, by this backend; inductor is the fast one, the others look for
    faults. The first iterations take minutes longer."""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    """Attention kernel of the transformer; torch chooses one if auto."""

    weights: RewardWeights = field(default_factory=RewardWeights)
    """Reward weights."""
    reward_files: tuple[Path, ...] = ()
    """Python files that add rewards of your own, see examples/level_horizon.py; `weights.more` weighs them."""
    reward_space: Literal["latent", "rgb"] = "latent"
    """Judge latents directly by Φ_g, or decode them and judge the video by Φ (slower)."""
    reward_batch: int = 8
    """Videos judged at once: memory against speed, the rewards are the same."""
    dense_frames: int | None = None
    """Frames whose dense geometry is computed at once: memory against speed; the geometry model's own if not given."""
    advantage: Literal["paper", "gdpo", "scalar"] = "paper"
    """Standardise each reward in its group, then average; the same with a final batch normalisation; or sum first."""
    advantage_std: Literal["group", "global", "none"] = "group"
    """For `scalar`: which spread the summed reward is divided by."""
    motion_guard: float = 1.0
    """Strength of the guard against a freezing camera, 0 is off: what is taken from the advantage of a still video."""
    motion_floor: float = 0.9
    """The guard acts below this fraction of the base model's camera path at the same prompt and seeds."""
    guard_clips: int = 4
    """Videos of the base model a group that its camera path is measured on, at the group's first seeds."""

    clip_range: float = 1e-3
    """The ratio of new to old probability counts within 1 ± this."""
    kl: Literal["velocity", "gaussian", "none"] = "velocity"
    """How the distance to the base model is measured."""
    kl_weight: float = 0.004
    """Weight of that distance."""
    ratio_norm: bool = False
    """GRPO-Guard's normalised ratio; use a clip range near 2e-6 with it."""
    advantage_clip: float = 5.0
    """Advantages are cut to ± this."""
    updates: int = 1
    """Optimiser steps an iteration; its micro-batches are dealt out to them."""

    learning_rate: float = 1e-4
    """AdamW, constant."""
    weight_decay: float = 1e-4
    """AdamW."""
    gradient_clip: float = 1.0
    """Largest norm of the adapter's gradient."""
    ema_decay: float = 0.9
    """Average of the adapter over updates, used for evaluation and export; 0 is off. It starts short."""
    lora_rank: int = 32
    """Rank of the adapter."""
    lora_alpha: float = 64.0
    """Scale of the adapter: alpha / rank."""
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Linear layers that it adapts, by the end of their names."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, a third more time."""
    shard_base: bool = False
    """With several GPUs: share out the frozen base's weights (FSDP) instead of a whole copy on each. Only the adapter
    is trained, and it stays whole on each."""

    sft_clips: Path | None = None
    """sft: a folder of videos with captions, as train-lgm reads them; smooth clips of the procedural world if not
    given."""
    noise_draws: int = 3
    """sft and dpo: noise fractions that each clip or pair is trained at in an iteration."""
    preference: Literal["epipolar", "reprojection", "reward"] = "epipolar"
    """dpo: how videos are ranked. By the Sampson error of their frames (Epipolar-DPO), by the dense reprojection error
    of what the geometry model sees in them (as VideoGPA), or by the rewards above."""
    pairs: int = 1
    """dpo: pairs a group, best against worst first; no video is in two."""
    pairs_from: Literal["policy", "base"] = "policy"
    """dpo: who draws the videos: the adapter as it is, or the base model as in the papers."""
    pair_motion_floor: float = 0.5
    """dpo: the winner must move at least this fraction as much as the loser, so that standing still does not win; 0 is
    off."""
    dpo_beta: float = 500.0
    """dpo: how strongly the adapter is held to the base model."""

    evaluate_every: int = 5
    """Iterations between evaluations on held-out prompts at fixed seeds; 0 is off."""
    evaluation_clips: int = 16
    """Held-out prompts (one video each) to evaluate on."""
    evaluation_steps: int = 50
    """Denoising steps of an evaluation."""
    evaluation_guidance: float = 5.0
    """Classifier-free guidance of an evaluation."""
    sample_every: int = 10
    """Iterations between sample videos, written beside the base model's; 0 is off."""
    samples: int = 4
    """Sample videos: the first ones of the evaluation."""
    checkpoint_every: int = 5
    """Iterations between checkpoints."""
    early_stop: str = ""
    """A held-out metric, for example eval/motion_smoothness/mean: stop when it no longer rises. Off if empty."""
    early_stop_patience: int = 4
    """Evaluations without a new best value before the run stops."""

    refresh_lgm: int = 0
    """Iterations between refreshes of Φ_g on freshly generated videos, so that the judge does not drift; 0 is off."""
    refresh_steps: int = 20
    """Training steps of a refresh."""
    refresh_clips: int = 8
    """Generated videos of a refresh; a quarter of them (at least one) only measures."""
    refresh_learning_rate: float = 5e-5
    """AdamW, of a refresh."""

    ratio_tolerance: float = 1e-5
    """The first update is refused if a replayed ratio is further from 1 than this."""
    max_skipped: int = 5
    """Iterations in a row without a usable update after which the run stops, its last good checkpoint kept."""
    trackers: tuple[Tracker, ...] = ()
    """Also log to these (pip install them first)."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, before any model is loaded."""
        if self.group_size < 2:
            raise UserError(
                f"The group size is {self.group_size}: videos of a group are compared with each other; give at least 2."
            )
        wanted = list(self.weights.all_by_name.values())
        if not all(0.0 <= weight < float("inf") for weight in wanted) or not any(wanted):
            raise UserError("Reward weights must be 0 or more, and at least one of them positive.")
        self._require_at_least(1, "iterations", "groups", "steps", "micro_batch", "updates", "checkpoint_every")
        self._require_at_least(
            1, "lora_rank", "evaluation_clips", "evaluation_steps", "max_skipped", "training_captions"
        )
        self._require_at_least(1, "early_stop_patience", "refresh_steps", "guard_clips", "reward_batch")
        for name in ("height", "width", "frames", "dense_frames"):
            if getattr(self, name) is not None:
                self._require_at_least(1, name)
        self._require_at_least(0, "seed", "evaluate_every", "sample_every", "samples", "refresh_lgm")
        self._require_at_least(2, "refresh_clips")
        for name in ("learning_rate", "gradient_clip", "lora_alpha", "refresh_learning_rate", "flow_shift"):
            self._require(name, value_ok=0.0 < getattr(self, name) < float("inf"), wanted="a positive number")
        for name in ("weight_decay", "motion_guard", "motion_floor", "kl_weight", "ratio_tolerance"):
            self._require(name, value_ok=0.0 <= getattr(self, name) < float("inf"), wanted="0 or more")
        for name in ("guidance", "evaluation_guidance"):
            self._require(name, value_ok=1.0 <= getattr(self, name) <= 30.0, wanted="1 (off) to 30")
        self._require("ema_decay", value_ok=0.0 <= self.ema_decay < 1.0, wanted="0 (off) to below 1")
        self._require_objective()
        if self.early_stop and not self.evaluate_every:
            raise UserError("--early-stop watches a held-out metric: give --evaluate-every as well.")
        if self.early_stop and not self.early_stop.startswith("eval/"):
            raise UserError(f"--early-stop {self.early_stop!r} is no held-out metric: try eval/motion_smoothness/mean.")

    def _require_objective(self) -> None:
        """What belongs to one objective is wrong with another."""
        self._require_at_least(1, "noise_draws", "pairs")
        self._require("dpo_beta", value_ok=0.0 < self.dpo_beta < float("inf"), wanted="a positive number")
        self._require("pair_motion_floor", value_ok=0.0 <= self.pair_motion_floor <= 1.0, wanted="0 (off) to 1")
        if self.objective == "sft":
            for name in ("prompts", "first_frame"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--objective sft learns from whole clips and their own captions: leave out "
                        f"--{name.replace('_', '-')}."
                    )
        elif self.sft_clips is not None:
            raise UserError(f"--sft-clips belongs to --objective sft, not {self.objective}.")
        if self.objective == "dpo" and 2 * self.pairs > self.group_size:
            raise UserError(
                f"A group of {self.group_size} videos holds no {self.pairs} pairs: give a lower --pairs or a larger "
                "--group-size."
            )
        if self.refresh_lgm and not self.learns_from_rewards:
            raise UserError(
                f"--refresh-lgm keeps the rewards of a training honest, and --objective {self.objective} does not "
                "learn from them: leave it out."
            )

    @property
    def learns_from_rewards(self) -> bool:
        """Whether rewards decide what is learnt; otherwise they are measured on held-out videos only."""
        return self.objective == "grpo" or (self.objective == "dpo" and self.preference == "reward")

    @property
    def pairs_at_once(self) -> int:
        """Pairs in the transformer at once; a pair is two videos, and never less than one of them is."""
        return max(self.micro_batch // 2, 1)

    def _require_at_least(self, least: int, *names: str) -> None:
        for name in names:
            self._require(name, value_ok=getattr(self, name) >= least, wanted=f"at least {least}")

    def _require(self, name: str, *, value_ok: bool, wanted: str) -> None:
        if not value_ok:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give {wanted}.")

    @property
    def rollout_settings(self) -> "RolloutSettings":
        """How groups are sampled; validates the window."""
        from vggrpo.policy.rollout import RolloutSettings

        return RolloutSettings(
            steps=self.steps,
            shift=self.flow_shift,
            guidance=self.guidance,
            transition=self.transition,
            noise_level=self.noise_level,
            window_size=self.window_size,
            window_range=(self.window_first, self.window_end),
            same_noise=self.same_noise and self.objective == "grpo",
            mirrored_noise=self.mirrored_noise,
            scored_cells=self.scored_cells,
            micro_batch=self.micro_batch,
            together=self.guidance_together,
            autograd_in_window=self.compile != "off",
        )

    @property
    def guidance_together(self) -> bool:
        """Whether guidance runs in one batch, see ``policy.sampling.Conditions``."""
        return self.guidance_passes == "together"

    @property
    def surrogate_settings(self) -> "SurrogateSettings":
        """The loss."""
        from vggrpo.grpo.clipped_surrogate import SurrogateSettings

        return SurrogateSettings(
            clip_range=self.clip_range,
            kl=self.kl,
            kl_weight=self.kl_weight,
            ratio_norm=self.ratio_norm,
            advantage_clip=self.advantage_clip,
        )

    @property
    def advantage_settings(self) -> "AdvantageSettings":
        """How rewards become advantages."""
        from vggrpo.grpo.advantage import AdvantageSettings

        return AdvantageSettings(mode=self.advantage, std=self.advantage_std)

    @property
    def lora_settings(self) -> "LoraSettings":
        """The adapter."""
        from vggrpo.policy.adapter import LoraSettings

        return LoraSettings(rank=self.lora_rank, alpha=self.lora_alpha, targets=self.lora_targets)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is allowed but hardly meant, a sentence each."""
        if self.ratio_norm and self.clip_range > _RATIO_NORM_CLIP:
            ratio_norm = f"--ratio-norm with --clip-range {self.clip_range:g} never clips: its ratios stay within"
            return (f"{ratio_norm} some 1e-6 of 1; give --clip-range 2e-6.",)
        return ()

    def differences(self, other: "GrpoConfig") -> dict[str, Any]:
        """Settings of ``other`` that differ from this one's, by name."""
        names = [item.name for item in fields(self)]
        return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(self, name)}


def require_same_run(saved: GrpoConfig, asked: GrpoConfig) -> None:
    """Raise a UserError if resuming ``saved`` with the settings ``asked`` would not continue the same run."""
    changed = {name: value for name, value in saved.differences(asked).items() if name not in MAY_CHANGE_ON_RESUME}
    if changed:
        name = next(iter(changed))
        raise UserError(
            f"The run was started with {name} = {getattr(saved, name)}, not {changed[name]}: a resumed run keeps its "
            f"settings; leave out --{name.replace('_', '-')}, or start a new folder."
        )
