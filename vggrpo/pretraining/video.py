"""``pretrain video``: the embedded video model, a genuine ``WanPipeline`` of small configuration.

Flow matching on the latents of world clips: x_t = (1 − t) x_0 + t x_1, loss ‖v_θ − (x_1 − x_0)‖². The text encoder
learns with the transformer. On a share of clips the prompt is dropped (for classifier-free guidance), on another the
first latent frame is given clean at timestep 0 (as Wan 2.2 TI2V has it), so that a user can give a first frame.

On a share of steps the batch is single frames, of many more scenes than there are clips: what a word looks like is
learnt from them at a fifth of the cost, and clips teach what moves.
"""

import copy
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.policy.backbone import (
    TextConditioner,
    cast_like_pretrained,
    encode_text,
    load_transformer,
    predict_velocity,
)
from vggrpo.policy.plain_attention import PlainWanAttention
from vggrpo.policy.sampling import Conditions, draw_noise, sample_ode
from vggrpo.policy.schedule import add_noise, shift_noise
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.pretraining.latent_cache import LatentClips, encode_clips
from vggrpo.pretraining.text import END, PAD, build_tokenizer
from vggrpo.runtime.device import choose_dtype, set_threads
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.types import Latents
from vggrpo.worlds import sample_scene

MAX_SHARD = "8MB"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoArchitecture:
    """Sizes of ``WanTransformer3DModel`` and ``UMT5EncoderModel``."""

    num_attention_heads: int = 4
    attention_head_dim: int = 64
    num_layers: int = 8
    ffn_dim: int = 1024
    latent_channels: int = 16
    text_dim: int = 128
    text_layers: int = 2
    max_tokens: int = 64

    def build_transformer(self) -> WanTransformer3DModel:
        """A fresh transformer in fp32."""
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=self.num_attention_heads,
            attention_head_dim=self.attention_head_dim,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            text_dim=self.text_dim,
            freq_dim=256,
            ffn_dim=self.ffn_dim,
            num_layers=self.num_layers,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
        )

    def build_text_encoder(self, tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
        """A fresh text encoder in fp32."""
        heads = max(self.text_dim // 32, 1)
        config = UMT5Config(
            vocab_size=len(tokenizer),
            d_model=self.text_dim,
            d_kv=self.text_dim // heads,
            d_ff=2 * self.text_dim,
            num_layers=self.text_layers,
            num_heads=heads,
            dropout_rate=0.0,
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
        )
        return UMT5EncoderModel(config)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoTraining:
    """Settings of ``pretrain video``."""

    vae: Path
    """The diffusers folder of the trained VAE."""
    architecture: VideoArchitecture = field(default_factory=VideoArchitecture)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=1150,
            learning_rate=1e-3,
            warmup_steps=100,
            weight_decay=0.01,
            optimiser="muon",
            ema_decay=0.995,
            checkpoint_every=100,
            sample_every=300,
        )
    )
    clips: int = 2400
    batch: int = 12
    images: int = 2400
    """Scenes of which the first frame alone is learnt; a rendered frame costs a seventeenth of a clip."""
    image_batch: int = 60
    image_steps: tuple[float, float] = (0.6, 0.2)
    """Share of steps on single frames when the run begins and when it ends, linear between; 0 asks for none."""
    num_frames: int = 17
    size: int = 128
    shift: float = 3.0
    drop_prompt: float = 0.1
    first_frame_share: float = 0.2
    guidance: float = 2.0
    sampling_steps: int = 20
    compile: bool = False
    """Compile the transformer's blocks: less time a step, for a minute at the start; takes a C++ compiler."""
    start_from: Path | None = None
    """A finished pipeline of the same VAE to train further, instead of fresh models."""

    def going_on(self, start_from: Path) -> "VideoTraining":
        """These settings for a finished pipeline: a lower rate (the full one would first undo what it learnt), a longer
        average, and fewer single frames, since it knows its words."""
        loop = replace(self.loop, learning_rate=self.loop.learning_rate / 2, ema_decay=0.998)
        return replace(self, loop=loop, image_steps=(0.4, 0.2), start_from=start_from)

    def build_models(self, tokenizer: PreTrainedTokenizerFast) -> tuple[WanTransformer3DModel, UMT5EncoderModel]:
        """The transformer in the device's precision and the text encoder in fp32: fresh, or ``start_from``'s."""
        dtype = choose_dtype(torch.device("cpu"))
        if self.start_from is None:
            encoder = self.architecture.build_text_encoder(tokenizer)
            return cast_like_pretrained(self.architecture.build_transformer(), dtype), encoder
        transformer = load_transformer(self.start_from, dtype=dtype, device=torch.device("cpu"))
        encoder = UMT5EncoderModel.from_pretrained(
            self.start_from / "text_encoder", dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        transformer.register_to_config(_name_or_path="")
        return transformer.train().requires_grad_(requires_grad=True), encoder.train()


def pretrain_video(config: VideoTraining, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train, and when finished write the whole pipeline folder ``out/pipeline`` and ``out/video.json``."""
    set_threads("background")
    device = torch.device("cpu")
    dtype = choose_dtype(device)
    torch.manual_seed(config.loop.seed)
    tokenizer = build_tokenizer(config.architecture.max_tokens)
    transformer, encoder = config.build_models(tokenizer)
    transformer.set_attn_processor(PlainWanAttention())
    if config.compile:
        transformer.compile_repeated_blocks(dynamic=False)
    vae = VideoVAE.load(config.vae, dtype=dtype, device=device)
    cache = ClipCache(folder=default_cache(), num_frames=config.num_frames, size=config.size)
    data = encode_clips(vae, cache, count=config.clips, folder=default_cache(), weights=config.vae)
    images = encode_images(vae, config) if max(config.image_steps) > 0.0 else None
    loop = TrainingLoop({"transformer": transformer, "text_encoder": encoder}, config.loop, out)

    def losses(step: Step) -> dict[str, Tensor]:
        return video_losses(transformer, encoder, tokenizer, data, config=config, step=step, images=images)

    def sample(step: int) -> None:
        loop.use_ema()
        save_samples(transformer, encoder, tokenizer, vae, path=out / "samples" / f"step-{step:06d}.png", config=config)
        # A pipeline to look at, and for train-lgm to begin with, long before the training ends.
        save_pipeline(config, out / "pipeline", transformer=transformer, encoder=encoder, tokenizer=tokenizer)
        loop.use_masters()

    result = loop.run(losses, resume=resume, sample=sample)
    if result.finished:
        loop.use_ema()
        save_pipeline(config, out / "pipeline", transformer=transformer, encoder=encoder, tokenizer=tokenizer)
        report = {"steps": result.steps_done, "seconds": round(result.seconds), **result.last_metrics}
        (out / "video.json").write_text(json.dumps(report, indent=2))
    return result


def encode_images(vae: VideoVAE, config: VideoTraining) -> LatentClips:
    """The first frames of ``config.images`` training scenes: the clips' own, and as many more."""
    frames = ClipCache(folder=default_cache(), num_frames=1, size=config.size)
    return encode_clips(vae, frames, count=config.images, folder=default_cache(), weights=config.vae)


@torch.no_grad()
def held_out_loss(pipeline: Path, cache: ClipCache, *, clips: int) -> dict[str, float]:
    """Flow-matching loss of a finished pipeline on held-out clips (seeds 0, 1, …) at nine noise fractions each."""
    device = torch.device("cpu")
    dtype = choose_dtype(device)
    vae = VideoVAE.load(pipeline / "vae", dtype=dtype, device=device)
    text = TextConditioner.load(pipeline, dtype=torch.float32, device=device, max_tokens=VideoArchitecture().max_tokens)
    transformer = load_transformer(pipeline, dtype=dtype, device=device)
    fractions = torch.linspace(0.1, 0.9, 9)
    errors = torch.zeros(len(fractions))
    for seed in range(clips):
        clean = vae.encode_normalised(video_from_frames(torch.from_numpy(cache.rgb(seed))[None])).tensor
        clean = clean.expand(len(fractions), -1, -1, -1, -1)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
        fraction = fractions[:, None].expand(-1, clean.shape[2])
        noisy = add_noise(clean, noise, fraction[:, None, :, None, None])
        prompt = text.embed(cache.caption(seed)).expand(len(fractions), -1, -1)
        velocity = predict_velocity(transformer, noisy, fraction, prompt)
        errors += (velocity - (noise - clean)).square().mean((1, 2, 3, 4)) / clips
    by_fraction = {f"loss_at_{t:.1f}": round(float(e), 4) for t, e in zip(fractions, errors, strict=True)}
    return {"loss": round(float(errors.mean()), 4), **by_fraction}


def video_losses(
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    data: LatentClips,
    *,
    config: VideoTraining,
    step: Step,
    images: LatentClips | None = None,
) -> dict[str, Tensor]:
    """The flow-matching loss of one batch; all clips of a step either have a clean first frame or have not.

    With ``images``, a share of the steps is on these.
    """
    first, last = config.image_steps
    single = images is not None and bool(step.rng.random() < first + (last - first) * step.fraction)
    if images is not None and single:
        data = images
    batch = config.image_batch if single else config.batch
    rows = step.rng.integers(len(data.captions), size=batch)
    clean = data.latents[torch.from_numpy(rows)]
    dropped = step.rng.random(batch) < config.drop_prompt
    prompts = ["" if drop else data.captions[row] for row, drop in zip(rows, dropped, strict=True)]
    noise = torch.randn(clean.shape, generator=step.generator)
    # One fraction a clip, spread evenly over the batch: less noise in the gradient than independent draws.
    u = (torch.rand(1, generator=step.generator) + torch.arange(batch) / batch) % 1.0
    fraction = shift_noise(u, shift=config.shift)[:, None].expand(-1, clean.shape[2]).clone()
    given_first = not single and bool(step.rng.random() < config.first_frame_share)
    if given_first:
        fraction[:, 0] = 0.0
    noisy = add_noise(clean, noise, fraction[:, None, :, None, None])
    text = encode_text(tokenizer, encoder, prompts, max_tokens=config.architecture.max_tokens)
    velocity = predict_velocity(transformer, noisy, fraction, text)
    error = (velocity - (noise - clean)).square()
    loss = error[:, :, 1:].mean() if given_first else error.mean()
    kind = "loss/single_frames" if single else "loss/first_frame_given" if given_first else "loss/text_only"
    return {"loss": loss, kind: loss.detach()}


@torch.no_grad()
def sample_clips(
    transformer: WanTransformer3DModel,
    text: Float[Tensor, "B L D"],
    negative: Float[Tensor, "1 L D"],
    *,
    latent_shape: tuple[int, int, int, int],
    config: VideoTraining,
) -> Float[Tensor, "B C T h w"]:
    """Latents for prompt embeddings, seeds 0, 1, …"""
    noise = torch.cat([draw_noise((1, *latent_shape), seed=seed, device=text.device) for seed in range(len(text))])
    conditions = Conditions(text=text, negative=negative, guidance=config.guidance)
    return sample_ode(transformer, noise, conditions, steps=config.sampling_steps, shift=config.shift).tensor


@torch.no_grad()
def save_samples(
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    vae: VideoVAE,
    *,
    path: Path,
    config: VideoTraining,
) -> None:
    """A grid of clips for held-out captions (seeds 0 to 5): frames 0, 4, 8, 12, 16 in a row."""
    captions = [sample_scene(seed).caption for seed in range(6)]
    text = encode_text(tokenizer, encoder, ["", *captions], max_tokens=config.architecture.max_tokens)
    frames = (config.num_frames - 1) // 4 + 1
    cells = config.size // vae.model.spatial_compression_ratio
    shape = (config.architecture.latent_channels, frames, cells, cells)
    latents = sample_clips(transformer, text[1:], text[:1], latent_shape=shape, config=config)
    video = vae.decode_normalised(Latents(tensor=latents))
    rows = [np.concatenate(list(clip[::4].numpy()), axis=1) for clip in frames_from_video(video)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
    path.with_suffix(".txt").write_text("\n".join(captions) + "\n")


def save_pipeline(
    config: VideoTraining,
    folder: Path,
    *,
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """A folder that stock ``WanPipeline.from_pretrained`` loads: safetensors in bf16, sharded."""
    shutil.rmtree(folder, ignore_errors=True)
    vae = VideoVAE.load(config.vae, dtype=torch.bfloat16, device=torch.device("cpu")).model
    # diffusers notes where a model was loaded from: a path of this machine, which is nobody's business.
    vae.register_to_config(_name_or_path="")
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=copy.deepcopy(encoder).to(torch.bfloat16),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
        transformer=transformer,
        expand_timesteps=True,
    ).save_pretrained(folder, safe_serialization=True, max_shard_size=MAX_SHARD)
