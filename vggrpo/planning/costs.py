"""Costs of the parts of an iteration, each from a dry run of the code that a training runs.

Blocks of the transformer and frames of the decoder repeat, so their costs are straight lines in their number: two short
runs give the line, and a model of 30 blocks is planned in seconds. The geometry model is run whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from vggrpo.generation.architecture import Architecture
from vggrpo.grpo.clipped_surrogate import OldStep, step_loss
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.flow_dpo import PairBatch
from vggrpo.grpo.flow_matching import NoiseDraws
from vggrpo.grpo.flow_sft import ClipBatch
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.pixel_grid import resize_for_geometry
from vggrpo.planning.dry_run import Cost, dry_run
from vggrpo.policy.adapter import adapter_parameters, add_adapter
from vggrpo.policy.backbone import cast_like_pretrained
from vggrpo.policy.rollout import Rollout, replay, replay_reference
from vggrpo.policy.sampling import Conditions, guided_velocity
from vggrpo.types import Latents, SceneGeometry

META = torch.device("meta")
JUDGE_BYTES_A_POINT = 200
"""What the rewards hold for each pixel of each frame beyond the scene itself: measured, and held by a test."""

_FEW_BLOCKS = 2
_FEW_FRAMES = 3

Shape = tuple[int, int, int, int]
"""C, T, h, w of one video's latents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyCosts:
    """Of the video transformer, for one micro-batch."""

    weights_bytes: float
    adapter_numbers: float
    """Trained numbers, in fp32."""
    rollout_step: Cost
    evaluation_step: Cost
    """As ``rollout_step``, with the evaluation's guidance."""
    reference_step: Cost
    """A replay without the adapter; nothing where there is no distance to the base, or it is part of the pass."""
    replay_step: Cost
    """A pass of the objective's own micro-batch with its loss and backward pass; it keeps the adapter's gradient."""

    def extended(self, longer: "PolicyCosts", *, blocks: int) -> "PolicyCosts":
        """These costs with ``blocks`` more blocks, ``longer`` being those with one more."""
        return PolicyCosts(
            weights_bytes=self.weights_bytes + blocks * (longer.weights_bytes - self.weights_bytes),
            adapter_numbers=self.adapter_numbers + blocks * (longer.adapter_numbers - self.adapter_numbers),
            rollout_step=self.rollout_step.per_more(longer.rollout_step, steps=blocks),
            evaluation_step=self.evaluation_step.per_more(longer.evaluation_step, steps=blocks),
            reference_step=self.reference_step.per_more(longer.reference_step, steps=blocks),
            replay_step=self.replay_step.per_more(longer.replay_step, steps=blocks),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderCosts:
    """Of a geometry model, for one batch of videos."""

    weights_bytes: float
    read: Cost
    """From latents (or images) to the scene, which is kept."""
    points: float
    """Pixels of all frames of all videos of the batch: what the rewards look at."""

    @property
    def peak_bytes(self) -> float:
        """While the scene is read, or while it is judged."""
        return max(self.read.peak_bytes, self.read.kept_bytes + self.points * JUDGE_BYTES_A_POINT)


def policy_costs(
    architecture: Architecture, config: GrpoConfig, *, shape: Shape, tokens: int, dtype: torch.dtype
) -> PolicyCosts:
    """Costs of the transformer held in ``dtype``, with ``config``'s adapter and micro-batch; texts of ``tokens``."""
    blocks = architecture.sizes.transformer["num_layers"]

    def with_blocks(count: int) -> PolicyCosts:
        sizes = replace(architecture.sizes, transformer={**architecture.sizes.transformer, "num_layers": count})
        return _policy_costs(replace(architecture, sizes=sizes), config, shape=shape, tokens=tokens, dtype=dtype)

    if blocks <= _FEW_BLOCKS + 1:
        return with_blocks(blocks)
    return with_blocks(_FEW_BLOCKS).extended(with_blocks(_FEW_BLOCKS + 1), blocks=blocks - _FEW_BLOCKS)


def _policy_costs(
    architecture: Architecture, config: GrpoConfig, *, shape: Shape, tokens: int, dtype: torch.dtype
) -> PolicyCosts:
    """The same, every block run."""
    with META:
        transformer = architecture.build_transformer().eval().requires_grad_(requires_grad=False)
        cast_like_pretrained(transformer, dtype)
        weights = bytes_of(transformer)
        add_adapter(transformer, config.lora_settings, seed=0)
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    text = torch.empty(1, tokens, architecture.sizes.transformer["text_dim"], dtype=dtype, device=META)
    steps = _Steps(transformer=transformer, config=config, shape=shape, text=text)
    wants_reference = config.objective == "grpo" and config.kl != "none" and config.kl_weight > 0.0
    nothing = Cost(flops=0.0, peak_bytes=0.0)
    return PolicyCosts(
        weights_bytes=weights,
        adapter_numbers=float(sum(p.numel() for p in adapter_parameters(transformer).values())),
        rollout_step=dry_run(lambda: steps.velocity(config.guidance)),
        evaluation_step=dry_run(lambda: steps.velocity(config.evaluation_guidance)),
        reference_step=dry_run(steps.reference) if wants_reference else nothing,
        replay_step=dry_run(steps.learn),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Steps:
    """What the trainer does with a micro-batch, on ``meta``."""

    transformer: WanTransformer3DModel
    config: GrpoConfig
    shape: Shape
    text: Tensor

    @property
    def count(self) -> int:
        """Videos of a micro-batch."""
        return min(self.config.micro_batch, self.config.group_size)

    @torch.no_grad()
    def velocity(self, guidance: float) -> Tensor:
        """One denoising step."""
        conditions = replace(self._conditions(guidance), text=self.text.expand(self.count, -1, -1))
        return guided_velocity(self.transformer, torch.empty(self.count, *self.shape, device=META), 0.5, conditions)

    def reference(self) -> object:
        """A window step under the base model."""
        config = self.config
        conditions = self._conditions(config.guidance)
        return replay_reference(self.transformer, self._rollout(), conditions, config.rollout_settings, step=0)

    def learn(self) -> object:
        """A pass with its loss and gradients, which are returned."""
        match self.config.objective:
            case "grpo":
                loss = self._replayed()
            case "sft":
                loss = self._clips().loss(self.transformer, 0).loss
            case "dpo":
                loss = self._pairs().loss(self.transformer, 0).loss
        torch.autograd.backward(loss.sum())
        return [parameter.grad for parameter in adapter_parameters(self.transformer).values()]

    def _replayed(self) -> Tensor:
        """The loss of a window step."""
        rollout, settings = self._rollout(), self.config.rollout_settings
        new = replay(self.transformer, rollout, self._conditions(self.config.guidance), settings, step=0)
        loss = step_loss(
            new,
            OldStep(log_prob=rollout.log_prob[:, 0], mean=rollout.mean[:, 0]),
            torch.empty(self.count, device=META),
            reference=replace(new, velocity=new.velocity.detach(), mean=new.mean.detach()),
            settings=self.config.surrogate_settings,
        )
        return loss.loss

    def _clips(self) -> ClipBatch:
        """Some clips to imitate."""
        conditions = replace(self._conditions(1.0), text=self.text.expand(self.count, -1, -1))
        return ClipBatch(
            conditions=lambda *_captions, **_options: conditions,
            clean=torch.empty(self.count, *self.shape, device=META),
            captions=("",) * self.count,
            usable=torch.ones(self.count, dtype=torch.bool),
            draws=self._draws(self.count),
            members=slice(0, self.count),
            number=0,
        )

    def _pairs(self) -> PairBatch:
        """Some pairs of videos."""
        count = min(self.config.pairs_at_once, self.config.pairs)
        return PairBatch(
            winners=torch.empty(count, *self.shape, device=META),
            losers=torch.empty(count, *self.shape, device=META),
            usable=torch.ones(count, dtype=torch.bool),
            conditions=self._conditions(1.0),
            draws=self._draws(count),
            members=slice(0, count),
            number=0,
            beta=self.config.dpo_beta,
        )

    def _draws(self, count: int) -> NoiseDraws:
        return NoiseDraws(seed=0, iteration=1, group=0, count=count, draws=1, shift=self.config.flow_shift)

    def _conditions(self, guidance: float) -> Conditions:
        together = self.config.guidance_passes == "together"
        return Conditions(text=self.text, negative=self.text, guidance=guidance, together=together)

    def _rollout(self) -> Rollout:
        """A window of one step: the others cost the same."""
        states = torch.empty(self.count, 2, *self.shape, device=META)
        return Rollout(
            latents=Latents(tensor=states[:, 1]),
            window_start=self.config.window_first,
            states=states,
            log_prob=torch.empty(self.count, 1, device=META),
            mean=torch.empty(self.count, 1, *self.shape, device=META),
            std=torch.ones(1, dtype=torch.float64),
            group=0,
            seeds=(0,) * self.count,
        )


def latent_reader_costs(
    architecture: Architecture, *, shape: Shape, videos: int, dense_frames: int | None, dtype: torch.dtype
) -> ReaderCosts:
    """Costs of Φ_g on the latents of ``videos`` videos, its adapter merged as for a judge."""
    with META:
        foundation = _held(architecture.build_geometry(), dtype=dtype)
        reader = architecture.build_latent_geometry(foundation)
    reader.eval().requires_grad_(requires_grad=False)
    reader.merge_lora()
    reader.geometry_model.dense_chunk = dense_frames
    latents = Latents(tensor=torch.empty(videos, *shape, device=META))
    return _reader_costs(reader, lambda: reader(latents))


def image_reader_costs(
    architecture: Architecture, *, size: tuple[int, int, int], videos: int, dense_frames: int | None, dtype: torch.dtype
) -> ReaderCosts:
    """Costs of Φ on ``videos`` videos of ``size`` (frames, height, width)."""
    with META:
        reader = _held(architecture.build_geometry(), dtype=dtype)
    module = cast(nn.Module, reader).eval().requires_grad_(requires_grad=False)
    reader.dense_chunk = dense_frames
    frames, height, width = size
    images = torch.empty(videos, frames, 3, height, width, device=META)
    return _reader_costs(module, lambda: reader.geometry(resize_for_geometry(images, patch_size=reader.patch_size)))


@torch.no_grad()
def _reader_costs(reader: nn.Module, read: Callable[[], SceneGeometry]) -> ReaderCosts:
    points: list[int] = []

    def work() -> SceneGeometry:
        scene = read()
        points.append(scene.depth.numel())
        return scene

    return ReaderCosts(weights_bytes=bytes_of(reader), read=dry_run(work), points=float(points[0]))


def _held(model: GeometryModel, *, dtype: torch.dtype) -> GeometryModel:
    if dtype == torch.bfloat16:
        model.to_bfloat16()
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderCosts:
    """Of the VAE's decoder."""

    weights_bytes: float
    decode: Cost
    """The decoded video is kept, in fp32."""


@torch.no_grad()
def decoder_costs(architecture: Architecture, *, shape: Shape, videos: int, dtype: torch.dtype) -> DecoderCosts:
    """Costs of decoding ``videos`` videos at once. The encoder's weights lie in memory, too."""
    with META:
        vae = architecture.build_vae().eval().requires_grad_(requires_grad=False)
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    channels, frames, height, width = shape

    def decoded(count: int) -> Cost:
        latents = torch.empty(videos, channels, count, height, width, dtype=dtype, device=META)

        def work() -> Tensor:
            video: Tensor = vae.decode(latents).sample
            return video.float()

        return dry_run(work)

    few = min(frames, _FEW_FRAMES)
    cost = decoded(few)
    if frames > few:
        cost = cost.per_more(decoded(few + 1), steps=frames - few)
    return DecoderCosts(weights_bytes=bytes_of(vae), decode=cost)


@torch.no_grad()
def encoder_cost(architecture: Architecture, *, size: tuple[int, int, int], dtype: torch.dtype) -> Cost:
    """Cost of encoding one video of ``size`` (frames, height, width)."""
    with META:
        vae = architecture.build_vae().eval().requires_grad_(requires_grad=False)
    for parameter in vae.parameters():
        parameter.data = parameter.data.to(dtype)
    frames, height, width = size
    latent_frames = (frames - 1) // 4 + 1

    def encoded(count: int) -> Cost:
        video = torch.empty(1, 3, 4 * (count - 1) + 1, height, width, dtype=dtype, device=META)
        return dry_run(lambda: vae.encode(video).latent_dist.mode().float())

    few = min(latent_frames, _FEW_FRAMES)
    cost = encoded(few)
    return cost if latent_frames == few else cost.per_more(encoded(few + 1), steps=latent_frames - few)


def text_encoder_bytes(architecture: Architecture, *, dtype: torch.dtype) -> float:
    """Weights of the text encoder, which leaves when all prompts are embedded."""
    with META:
        encoder: Any = architecture.build_text_encoder()
    return float(sum(parameter.numel() for parameter in encoder.parameters()) * dtype.itemsize)


def bytes_of(model: nn.Module) -> float:
    """Of parameters and buffers."""
    return float(sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers())))
