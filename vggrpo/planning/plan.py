"""Memory and time of a training by phase, before anything of it is loaded.

    resident    transformer, adapter with gradient-free copies (average, Adam), and the judge: there all the time
    embed       the text encoder beside all of that, which leaves when all prompts are embedded
    rollout     one denoising step of a micro-batch, and the window states of a group
    guard       the same for the base's videos
    reward      latent: Φ_g's pass over a batch. rgb: the decoded videos, then Φ's. Then the rewards themselves
    rank        dpo: the decoded videos, and what ranks them
    update      a pass of the objective's micro-batch with its activations, loss, gradients
    clips       sft, before the first iteration: the VAE, and one clip at a time
    evaluate    a denoising step with the evaluation's guidance, and rewards
    samples     the VAE, and one video at a time

Peaks are tensors, from dry runs (``planning.dry_run``); ``Machine`` says what a device adds. Times are operations over
the rate of matrix products: no program is faster, and a good one takes two to three times as long.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch

from vggrpo.generation.architecture import Architecture, architecture_of
from vggrpo.generation.options import LoadOptions
from vggrpo.grpo.config import GrpoConfig
from vggrpo.planning.costs import (
    DecoderCosts,
    PolicyCosts,
    ReaderCosts,
    Shape,
    decoder_costs,
    encoder_cost,
    image_reader_costs,
    latent_reader_costs,
    policy_costs,
    text_encoder_bytes,
)
from vggrpo.planning.dry_run import Cost
from vggrpo.planning.machine import Machine
from vggrpo.presets import Preset, get_preset

_Made = TypeVar("_Made")

_FP32 = 4
_ADAPTER_COPIES = 4
"""The weights, their average, and AdamW's two moments; the gradient is the update's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhasePlan:
    """One phase of an iteration (embed, evaluate and samples: of one time that it runs) on one process."""

    name: str
    resident_bytes: float
    extra_bytes: float
    """The most beyond what is resident."""
    flops: float = 0.0

    @property
    def peak_bytes(self) -> float:
        """All tensors at the worst moment."""
        return self.resident_bytes + self.extra_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a training takes on each of its processes."""

    config: GrpoConfig
    preset: Preset
    machine: Machine
    processes: int
    weights: Mapping[str, float]
    """Bytes by model, whether they are there all the time or not."""
    phases: tuple[PhasePlan, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> PhasePlan:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.peak_bytes)

    @property
    def fits(self) -> bool:
        """Whether every phase fits into the machine's memory."""
        return self.worst.peak_bytes <= self.machine.usable_bytes

    def phase(self, name: str) -> PhasePlan:
        """A phase by its name."""
        return next(phase for phase in self.phases if phase.name == name)

    def seconds(self, phase: PhasePlan) -> float | None:
        """The least time of a phase; None where the machine's rate is not known."""
        return None if self.machine.flops is None else phase.flops / self.machine.flops

    @property
    def needed_bytes(self) -> float:
        """What the device must have in all."""
        return self.worst.peak_bytes * self.machine.rounding + self.machine.context_bytes


class Planner:
    """Makes plans; dry runs that two plans share are made once."""

    def __init__(self, machine: Machine, *, processes: int = 1) -> None:
        self.machine = machine
        self.processes = processes
        self._known: dict[Hashable, object] = {}

    def plan(self, config: GrpoConfig) -> Plan:
        """The plan of a training. Raises a UserError for a size that the preset cannot draw."""
        preset = get_preset(config.preset).sized(height=config.height, width=config.width, frames=config.frames)
        parts = self._parts(config, preset)
        resident = parts.resident_bytes(config, processes=self.processes)
        phases = (
            PhasePlan(name="embed", resident_bytes=resident, extra_bytes=parts.text_bytes),
            *_iteration(config, parts, resident=resident, groups=config.groups / self.processes),
            *_occasional(config, parts, resident=resident, processes=self.processes),
            *_clips(parts, resident=resident),
        )
        return Plan(
            config=config,
            preset=preset,
            machine=self.machine,
            processes=self.processes,
            weights=parts.weights(config),
            phases=phases,
            notes=_notes(config),
        )

    def _parts(self, config: GrpoConfig, preset: Preset) -> "_Parts":
        options = LoadOptions(
            model_folder=config.model_folder,
            geometry=config.geometry,
            geometry_weights=config.geometry_weights,
            latent_geometry=config.latent_geometry,
        )
        models = (preset.name, preset.latent_shape, options)
        dtypes = _dtypes(preset, self.machine)
        architecture = self._once(models, lambda: architecture_of(preset, options))
        shape = preset.latent_shape
        guidance = (config.guidance, config.evaluation_guidance, config.guidance_passes)
        distance = (config.kl, config.kl_weight)
        learning = (config.objective, config.pairs)
        drawing = (config.micro_batch, config.group_size, config.gradient_checkpointing, guidance, distance, learning)
        judging = (config.reward_space, config.reward_batch, config.dense_frames)

        def decoder(videos: int) -> DecoderCosts:
            return self._once(
                ("decoder", models, videos),
                lambda: decoder_costs(architecture, shape=shape, videos=videos, dtype=dtypes.vae),
            )

        return _Parts(
            shape=shape,
            policy=self._once(
                ("policy", models, drawing, config.lora_settings),
                lambda: policy_costs(
                    architecture, config, shape=shape, tokens=preset.max_tokens, dtype=dtypes.transformer
                ),
            ),
            reader=self._once(
                ("reader", models, judging), lambda: _reader(architecture, config, preset=preset, dtype=dtypes.geometry)
            ),
            judged=decoder(config.reward_batch) if config.reward_space == "rgb" else None,
            ranked=decoder(config.reward_batch) if config.objective == "dpo" else None,
            ranker=self._once(
                ("ranker", models, judging),
                lambda: _image_reader(architecture, config, preset=preset, dtype=dtypes.geometry),
            )
            if config.objective == "dpo" and config.preference == "reprojection"
            else None,
            encoded=self._once(
                ("encoder", models),
                lambda: encoder_cost(architecture, size=_size(preset), dtype=dtypes.vae),
            )
            if config.objective == "sft"
            else None,
            shown=decoder(1) if config.sample_every or config.refresh_lgm or config.objective == "sft" else None,
            text_bytes=self._once(("text", models), lambda: text_encoder_bytes(architecture, dtype=dtypes.text)),
        )

    def _once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        if key not in self._known:
            self._known[key] = make()
        return cast(_Made, self._known[key])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dtypes:
    """What ``generation.models`` holds each model in."""

    transformer: torch.dtype
    vae: torch.dtype
    text: torch.dtype
    geometry: torch.dtype


def _dtypes(preset: Preset, machine: Machine) -> _Dtypes:
    if preset.is_released_model:
        return _Dtypes(transformer=machine.dtype, vae=torch.float32, text=machine.dtype, geometry=machine.dtype)
    held = torch.float32 if preset.folders is None else machine.dtype
    return _Dtypes(transformer=held, vae=held, text=torch.float32, geometry=torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """Costs of all models at the sizes of a training."""

    shape: Shape
    policy: PolicyCosts
    reader: ReaderCosts
    judged: DecoderCosts | None
    """Decoding a reward batch, where the reward is read from decoded video."""
    ranked: DecoderCosts | None
    """The same, where videos are decoded to be ranked."""
    ranker: ReaderCosts | None
    """The geometry model that ranks them, where one does."""
    encoded: Cost | None
    """Encoding a clip, where clips are learnt from."""
    shown: DecoderCosts | None
    """Decoding one video at a time, for samples."""
    text_bytes: float

    @property
    def state_bytes(self) -> float:
        """Of one latent state of one video, fp32."""
        return float(math.prod(self.shape) * _FP32)

    def weights(self, config: GrpoConfig) -> dict[str, float]:
        """Bytes by model."""
        decoder = self.kept_decoder or self.shown
        judge = "latent geometry model" if config.reward_space == "latent" else "geometry model"
        found = {"transformer": self.policy.weights_bytes, judge: self.reader.weights_bytes}
        if self.ranker is not None:
            found["geometry model"] = self.ranker.weights_bytes
        found["adapter, average and AdamW"] = self.policy.adapter_numbers * _FP32 * _ADAPTER_COPIES
        if decoder is not None:
            found["VAE"] = decoder.weights_bytes
        return found | {"text encoder": self.text_bytes}

    def resident_bytes(self, config: GrpoConfig, *, processes: int) -> float:
        """Of what is there all the time."""
        shards = processes if config.shard_base else 1
        adapter = self.policy.adapter_numbers * _FP32 * _ADAPTER_COPIES
        decoder = 0.0 if self.kept_decoder is None else self.kept_decoder.weights_bytes
        # With rewards from decoded video, the geometry model that ranks is the one that judges.
        ranker = 0.0 if self.ranker is None or config.reward_space == "rgb" else self.ranker.weights_bytes
        return self.policy.weights_bytes / shards + adapter + self.reader.weights_bytes + decoder + ranker

    @property
    def kept_decoder(self) -> DecoderCosts | None:
        """The VAE, where every iteration decodes."""
        return self.judged or self.ranked

    @property
    def reward_batch_bytes(self) -> float:
        """While one batch of videos is judged."""
        if self.judged is None:
            return self.reader.peak_bytes
        return max(self.judged.decode.peak_bytes, self.judged.decode.kept_bytes + self.reader.peak_bytes)

    def reward_flops(self, config: GrpoConfig) -> float:
        """Of one video."""
        decoding = 0.0 if self.judged is None else self.judged.decode.flops
        return (decoding + self.reader.read.flops) / config.reward_batch


def _reader(architecture: Architecture, config: GrpoConfig, *, preset: Preset, dtype: torch.dtype) -> ReaderCosts:
    if config.reward_space == "rgb":
        return _image_reader(architecture, config, preset=preset, dtype=dtype)
    videos, dense = config.reward_batch, config.dense_frames
    return latent_reader_costs(architecture, shape=preset.latent_shape, videos=videos, dense_frames=dense, dtype=dtype)


def _image_reader(architecture: Architecture, config: GrpoConfig, *, preset: Preset, dtype: torch.dtype) -> ReaderCosts:
    videos, dense = config.reward_batch, config.dense_frames
    return image_reader_costs(architecture, size=_size(preset), videos=videos, dense_frames=dense, dtype=dtype)


def _size(preset: Preset) -> tuple[int, int, int]:
    return (preset.num_frames, preset.height, preset.width)


def _iteration(config: GrpoConfig, parts: _Parts, *, resident: float, groups: float) -> Iterator[PhasePlan]:
    """What the objective does with one process's groups."""
    videos = groups * config.group_size
    match config.objective:
        case "grpo":
            yield from _judged_rollouts(config, parts, resident=resident, groups=groups)
            passes = videos * config.window_size / min(config.micro_batch, config.group_size)
        case "dpo":
            yield from _ranked_videos(config, parts, resident=resident, groups=groups)
            passes = groups * config.pairs * config.noise_draws / min(config.pairs_at_once, config.pairs)
        case "sft":
            passes = videos * config.noise_draws / min(config.micro_batch, config.group_size)
    policy = parts.policy
    at_once = 2 * config.pairs_at_once if config.objective == "dpo" else min(config.micro_batch, config.group_size)
    learning = policy.reference_step.kept_bytes + policy.replay_step.peak_bytes
    yield PhasePlan(
        name="update",
        resident_bytes=resident,
        extra_bytes=max(policy.reference_step.peak_bytes, learning) + 3 * at_once * parts.state_bytes,
        flops=passes * (policy.reference_step.flops + policy.replay_step.flops),
    )


def _rollout(config: GrpoConfig, parts: _Parts, *, resident: float, videos: float, states: int) -> PhasePlan:
    """Videos that are drawn, with so many ``states`` of each kept until their group is joined."""
    step = parts.policy.rollout_step
    # Once more while a group's micro-batches are joined.
    group_bytes = 2 * config.group_size * parts.state_bytes * states
    flops = step.flops / min(config.micro_batch, config.group_size) * config.steps * videos
    return PhasePlan(name="rollout", resident_bytes=resident, extra_bytes=step.peak_bytes + group_bytes, flops=flops)


def _judged_rollouts(config: GrpoConfig, parts: _Parts, *, resident: float, groups: float) -> Iterator[PhasePlan]:
    """Rollout, guard and reward."""
    videos = groups * config.group_size
    # A video's latents, and the states and means of its window.
    states = 1 + (config.window_size + 1) + config.window_size
    rollout = _rollout(config, parts, resident=resident, videos=videos, states=states)
    yield rollout
    judging = parts.reward_batch_bytes + videos * parts.state_bytes
    judged = parts.reward_flops(config)
    if config.motion_guard:
        clips = groups * min(config.guard_clips, config.group_size)
        flops = clips * (rollout.flops / videos + judged)
        extra = max(rollout.extra_bytes, judging)
        yield PhasePlan(name="guard", resident_bytes=resident, extra_bytes=extra, flops=flops)
    yield PhasePlan(name="reward", resident_bytes=resident, extra_bytes=judging, flops=videos * judged)


def _ranked_videos(config: GrpoConfig, parts: _Parts, *, resident: float, groups: float) -> Iterator[PhasePlan]:
    """Rollout without window, and rank: each batch is decoded, and read where a model ranks."""
    assert parts.ranked is not None
    videos = groups * config.group_size
    yield _rollout(config, parts, resident=resident, videos=videos, states=1)
    decoding = parts.ranked.decode
    peak, flops = decoding.peak_bytes, decoding.flops / config.reward_batch
    if parts.ranker is not None:
        peak = max(peak, decoding.kept_bytes + parts.ranker.peak_bytes)
        flops += parts.ranker.read.flops / config.reward_batch
    if config.preference == "reward":
        peak = max(peak, parts.reward_batch_bytes)
        flops += parts.reward_flops(config)
    extra = peak + videos * parts.state_bytes
    yield PhasePlan(name="rank", resident_bytes=resident, extra_bytes=extra, flops=videos * flops)


def _clips(parts: _Parts, *, resident: float) -> Iterator[PhasePlan]:
    """The encoding of one clip; each is encoded once, before the first iteration."""
    if parts.encoded is None:
        return
    weights = 0.0 if parts.kept_decoder is not None or parts.shown is None else parts.shown.weights_bytes
    yield PhasePlan(
        name="clips",
        resident_bytes=resident,
        extra_bytes=weights + parts.encoded.peak_bytes,
        flops=parts.encoded.flops,
    )


def _occasional(config: GrpoConfig, parts: _Parts, *, resident: float, processes: int) -> Iterator[PhasePlan]:
    """What runs every few iterations, of one time; the adapter's average is in place, the trained one kept aside."""
    aside = parts.policy.adapter_numbers * _FP32
    batch = min(config.micro_batch, config.group_size)
    step = parts.policy.evaluation_step
    if config.evaluate_every:
        clips = config.evaluation_clips / processes
        flops = clips * (step.flops / batch * config.evaluation_steps + parts.reward_flops(config))
        extra = aside + max(step.peak_bytes, parts.reward_batch_bytes + batch * parts.state_bytes)
        yield PhasePlan(name="evaluate", resident_bytes=resident, extra_bytes=extra, flops=flops)
    if config.sample_every and parts.shown is not None:
        decoding = parts.shown.decode
        drawn = step.flops / batch * config.evaluation_steps
        weights = 0.0 if parts.kept_decoder is not None else parts.shown.weights_bytes
        yield PhasePlan(
            name="samples",
            resident_bytes=resident,
            extra_bytes=aside + weights + max(step.peak_bytes, decoding.peak_bytes),
            flops=config.samples * (drawn + decoding.flops),
        )


def _notes(config: GrpoConfig) -> tuple[str, ...]:
    """What the plan leaves out."""
    if config.refresh_lgm:
        return ("--refresh-lgm trains the judge with the geometry model beside it: not in this plan.",)
    return ()
