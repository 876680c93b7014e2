"""``pretrain vae``: the embedded video VAE, a genuine ``AutoencoderKLWan`` of Wan 2.2's residual kind, small.

Learns from crops: single frames first (colour appears fastest there), then short clips, then nearly whole frames.
Loss: L1 on pixels and on their spatial differences, a small KL term, ‖·‖ of chroma logged apart (a grey VAE has a fair
L1 and no chroma).

A finished VAE can be trained further. With the decoder alone its latents stay what they are, and so do all models that
were trained on them: the video model, Φ_g and every adapter.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.evaluation.reconstruction import peak_signal_to_noise, reconstruction_error
from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.runtime.device import choose_dtype, set_threads
from vggrpo.runtime.training import LoopConfig, Step, TrainingLoop, TrainingResult
from vggrpo.worlds import FIRST_TRAINING_SEED

LOG_VARIANCE_AT_START = -6.0
MAX_SHARD = "8MB"


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeArchitecture:
    """Sizes of ``AutoencoderKLWan``: 8× in space (2× of it by patches), 4× in time, 16 channels."""

    base_dim: int = 32
    decoder_base_dim: int = 32
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    patch_size: int = 2

    def build(self) -> AutoencoderKLWan:
        """A fresh model whose posterior starts narrow."""
        channels = 3 * self.patch_size**2
        model = AutoencoderKLWan(
            base_dim=self.base_dim,
            decoder_base_dim=self.decoder_base_dim,
            z_dim=self.z_dim,
            dim_mult=list(self.dim_mult),
            num_res_blocks=self.num_res_blocks,
            attn_scales=[],
            temperal_downsample=[True] * (len(self.dim_mult) - 1),
            latents_mean=[0.0] * self.z_dim,
            latents_std=[1.0] * self.z_dim,
            is_residual=True,
            in_channels=channels,
            out_channels=channels,
            patch_size=self.patch_size,
            scale_factor_spatial=self.patch_size * 2 ** (len(self.dim_mult) - 1),
        )
        torch.nn.init.constant_(model.quant_conv.bias[self.z_dim :], LOG_VARIANCE_AT_START)
        torch.nn.init.zeros_(model.quant_conv.weight[self.z_dim :])
        return model


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeTraining:
    """Settings of ``pretrain vae``."""

    architecture: VaeArchitecture = field(default_factory=VaeArchitecture)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4200,
            learning_rate=4e-4,
            warmup_steps=200,
            ema_decay=0.995,
            checkpoint_every=250,
            sample_every=500,
        )
    )
    clips: int = 1500
    """Size of the pool of training clips."""
    clips_at_start: int = 300
    """The pool grows by a clip every second step, so that training can begin while clips are still being rendered."""
    num_frames: int = 17
    size: int = 128
    crop: int = 64
    whole_crop: int = 120
    """Crop of the last phase: nearly whole frames. oneDNN's weight gradients of 3-D convolutions in bfloat16 are NaN on
    CPUs with AMX for rows of more than 64 places (torch 2.13); 120 pixels are 60 places, and 2 of padding."""
    single_frames: int = 16
    """Crops a step in the first phase."""
    clip_frames: int = 9
    clips_a_step: int = 2
    phases: tuple[float, float] = (0.2, 0.9)
    """Fractions of the run at which clips and whole frames begin."""
    full_length_from: float = 0.5
    """Fraction of the run from which every second clip step takes one clip of full length: colours must not drift."""
    gradient_weight: float = 0.5
    kl_weight: float = 1e-5
    start_from: Path | None = None
    """The folder of a finished VAE to train further, instead of a fresh one."""
    decoder_only: bool = False
    """Leave the encoder, and with it every latent, as it is."""

    def going_on(self, start_from: Path, *, decoder_only: bool) -> "VaeTraining":
        """These settings for a finished VAE: clips from the first step, at a lower rate and averaged for longer."""
        loop = replace(self.loop, learning_rate=2e-4, ema_decay=0.998)
        return replace(
            self, loop=loop, phases=(0.0, 0.5), full_length_from=0.0, start_from=start_from, decoder_only=decoder_only
        )

    def build(self) -> AutoencoderKLWan:
        """The model to train, in fp32: fresh, or ``start_from``, with gradients where training is asked for."""
        if self.start_from is None:
            return self.architecture.build()
        model = AutoencoderKLWan.from_pretrained(self.start_from, use_safetensors=True, local_files_only=True)
        # diffusers notes where a model was loaded from: a path of this machine, which is nobody's business.
        model.register_to_config(_name_or_path="")
        model.train().requires_grad_(requires_grad=True)
        if self.decoder_only:
            model.encoder.requires_grad_(requires_grad=False)
            model.quant_conv.requires_grad_(requires_grad=False)
        return model


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconstruction:
    """Held-out reconstruction: PSNR in dB over whole clips, and the correlation of chroma."""

    psnr: float
    psnr_first_frame: float
    chroma_correlation: float
    clips: int


def pretrain_vae(config: VaeTraining, out: Path, *, resume: bool = False) -> TrainingResult:
    """Train, and when finished write the diffusers folder ``out/vae`` with latent statistics and ``out/vae.json``."""
    set_threads("background")
    torch.manual_seed(config.loop.seed)
    model = config.build().to(choose_dtype(torch.device("cpu")))
    multiply_pointwise(model)
    cache = ClipCache(folder=default_cache(), num_frames=config.num_frames, size=config.size)
    loop = TrainingLoop({"vae": model}, config.loop, out)

    def losses(step: Step) -> dict[str, Tensor]:
        return vae_losses(model, sample_batch(cache, config, step), config, step.generator)

    def sample(step: int) -> None:
        save_reconstructions(VideoVAE(model=model), cache, out / "samples" / f"step-{step:06d}.png")

    result = loop.run(losses, resume=resume, sample=sample)
    if result.finished:
        loop.use_ema()
        _export(model, cache, config, result, out)
    return result


def multiply_pointwise(model: AutoencoderKLWan) -> None:
    """Let convolutions over a single place be the matrix product that they are; weights and numbers stay the same.

    oneDNN's backward pass of a 1×1×1 convolution in bfloat16 writes beyond its memory on CPUs with AMX (torch 2.13:
    64 to 32 channels over 64×64 places end the process with "free(): invalid next size").
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1):
            module.forward = partial(_pointwise, module)  # type: ignore[method-assign]


def _pointwise(module: nn.Conv3d, hidden: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B D T h w"]:
    """A 1×1×1 convolution of stride 1 without padding."""
    return F.linear(hidden.movedim(1, -1), module.weight.flatten(1), module.bias).movedim(-1, 1)


def sample_batch(cache: ClipCache, config: VaeTraining, step: Step) -> Float[Tensor, "B 3 n h w"]:
    """Random crops of the phase that ``step`` falls into, in [-1, 1]."""
    single = step.fraction < config.phases[0] or (step.fraction < config.phases[1] and step.index % 4 == 0)
    whole = step.fraction >= config.phases[1] and step.index % 2 == 0
    count = config.single_frames if single else 1 if whole else config.clips_a_step
    frames = 1 if single else config.clip_frames
    crop = config.whole_crop if whole else config.crop
    if step.fraction >= config.full_length_from and step.index % 4 in (1, 3) and not single:
        count, frames = 1, config.num_frames
    pool = min(config.clips, config.clips_at_start + step.index // 2)
    crops = []
    for _ in range(count):
        seed = FIRST_TRAINING_SEED + int(step.rng.integers(pool))
        start = int(step.rng.integers(config.num_frames - frames + 1))
        row, column = (int(value) for value in step.rng.integers(0, config.size - crop + 1, size=2))
        clip = cache.frames(seed, start=start, count=frames)[:, row : row + crop, column : column + crop]
        crops.append(clip[:, :, ::-1] if step.rng.random() < 0.5 else clip)
    return video_from_frames(torch.from_numpy(np.ascontiguousarray(np.stack(crops))))


def vae_losses(
    model: AutoencoderKLWan,
    video: Float[Tensor, "B 3 n h w"],
    config: VaeTraining,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """L1 + differences + KL; the posterior's sample is drawn in fp32 from ``generator``."""
    posterior = model.encode(video.to(model.dtype)).latent_dist
    mean = posterior.mean.float()
    log_variance = posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=generator)
    sample = mean + torch.exp(0.5 * log_variance) * noise
    # Not `decode`: it clamps, and a clamped pixel has no gradient.
    decoded = _decode_unclamped(model, sample.to(model.dtype)).float()
    error = decoded - video
    pixel = error.abs().mean()
    slope = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    chroma = (error - error.mean(1, keepdim=True)).abs().mean()
    loss = pixel + config.gradient_weight * slope + config.kl_weight * kl
    psnr = -10.0 * torch.log10(error.square().mean() / 4.0 + 1e-10)
    return {"loss": loss, "pixel": pixel, "slope": slope, "kl": kl, "chroma": chroma, "psnr": psnr}


def _decode_unclamped(model: AutoencoderKLWan, latents: Float[Tensor, "B C T h w"]) -> Float[Tensor, "B 3 N H W"]:
    """``model.decode`` before its clamp: frame by frame of latents through the causal decoder and its cache."""
    model.clear_cache()
    hidden = model.post_quant_conv(latents)
    chunks = []
    for index in range(hidden.shape[2]):
        model._conv_idx = [0]  # noqa: SLF001 - the causal cache's cursor has no public name
        chunk = hidden[:, :, index : index + 1]
        cache = {"feat_cache": model._feat_map, "feat_idx": model._conv_idx}  # noqa: SLF001
        chunks.append(model.decoder(chunk, first_chunk=index == 0, **cache))
    model.clear_cache()
    video = torch.cat(chunks, dim=2)
    patch = model.config.patch_size or 1
    batch, channels, frames, height, width = video.shape
    # Wan's patches are channels first, then column offset, then row offset.
    video = video.view(batch, channels // patch**2, patch, patch, frames, height, width)
    video = video.permute(0, 1, 4, 5, 3, 6, 2)
    return video.reshape(batch, channels // patch**2, frames, height * patch, width * patch)


@torch.no_grad()
def reconstruction_quality(vae: VideoVAE, cache: ClipCache, *, clips: int = 16) -> Reconstruction:
    """PSNR over held-out clips (seeds 0, 1, …)."""
    errors = []
    for seed in range(clips):
        video = video_from_frames(torch.from_numpy(cache.rgb(seed))[None])
        errors.append(reconstruction_error(vae.decode(vae.encode(video)), true=video))
    return Reconstruction(
        psnr=round(float(peak_signal_to_noise(np.array([error.squared for error in errors]))), 2),
        psnr_first_frame=round(
            float(peak_signal_to_noise(np.array([error.squared_first_frame for error in errors]))), 2
        ),
        chroma_correlation=round(float(np.mean([error.chroma_correlation for error in errors])), 3),
        clips=clips,
    )


@torch.no_grad()
def save_reconstructions(vae: VideoVAE, cache: ClipCache, path: Path, *, seeds: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """A grid: for each held-out seed a row of frames 0, 4, 8, 12, 16 and the row of their reconstructions."""
    rows = []
    for seed in seeds:
        frames = cache.rgb(seed)
        decoded = frames_from_video(vae.decode(vae.encode(video_from_frames(torch.from_numpy(frames)[None]))))[0]
        rows += [np.concatenate(list(clip[::4]), axis=1) for clip in (frames, decoded.numpy())]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


@torch.no_grad()
def _export(model: AutoencoderKLWan, cache: ClipCache, config: VaeTraining, result: TrainingResult, out: Path) -> None:
    """Latent statistics over training clips, weights in bf16, held-out quality."""
    vae = VideoVAE(model=model.eval())
    if not config.decoder_only:
        _register_statistics(model, cache, clips=min(64, config.clips))
    model.to(torch.bfloat16).save_pretrained(out / "vae", safe_serialization=True, max_shard_size=MAX_SHARD)
    quality = reconstruction_quality(vae, cache)
    report = {"steps": result.steps_done, "seconds": round(result.seconds), "held_out": asdict(quality)}
    (out / "vae.json").write_text(json.dumps(report, indent=2))


def _register_statistics(model: AutoencoderKLWan, cache: ClipCache, *, clips: int) -> None:
    """Mean and standard deviation of each channel over the first training clips, into the model's configuration."""
    vae = VideoVAE(model=model)
    latents = []
    for index in range(clips):
        frames = torch.from_numpy(cache.rgb(FIRST_TRAINING_SEED + index))[None]
        latents.append(vae.encode(video_from_frames(frames)).tensor)
    stacked = torch.cat(latents)
    model.register_to_config(
        latents_mean=[round(value, 4) for value in stacked.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 4) for value in stacked.std((0, 2, 3, 4)).tolist()],
    )
