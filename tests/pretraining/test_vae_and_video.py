"""The training commands from end to end, two steps each: what they write loads with stock diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline

from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.vae import (
    VaeArchitecture,
    VaeTraining,
    _decode_unclamped,
    pretrain_vae,
    sample_batch,
    vae_losses,
)
from vggrpo.pretraining.video import VideoArchitecture, VideoTraining, pretrain_video
from vggrpo.runtime.training import LoopConfig, Step
from vggrpo.types import Latents, RawLatents

CPU = torch.device("cpu")
SIZE = 32
FRAMES = 5
LOOP = LoopConfig(steps=2, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, checkpoint_every=1, sample_every=2)
VAE = VaeTraining(
    architecture=VaeArchitecture(base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=(1, 1, 1)),
    loop=LOOP,
    clips=3,
    num_frames=FRAMES,
    size=SIZE,
    crop=16,
    single_frames=2,
    clip_frames=5,
    clips_a_step=1,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True, scope="module")
def own_cache(home: Path) -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGRPO_CACHE", str(home / "cache"))
        yield patch


@pytest.fixture(scope="module")
def vae_folder(home: Path) -> Path:
    result = pretrain_vae(VAE, home / "vae")
    assert result.finished
    return home / "vae" / "vae"


@pytest.fixture(scope="module")
def vae(vae_folder: Path) -> VideoVAE:
    return VideoVAE.load(vae_folder, dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def video(home: Path) -> torch.Tensor:
    cache = ClipCache(folder=home / "cache", num_frames=FRAMES, size=SIZE)
    return video_from_frames(torch.stack([torch.from_numpy(cache.rgb(seed)) for seed in (0, 1)]))


def test_the_vae_compresses_as_promised(vae: VideoVAE, video: torch.Tensor) -> None:
    latents = vae.encode(video)
    assert latents.tensor.shape == (2, 4, (FRAMES - 1) // 4 + 1, SIZE // 8, SIZE // 8)
    assert vae.decode(latents).shape == video.shape
    assert not any(parameter.requires_grad for parameter in vae.model.parameters())


def test_training_latents_are_standard_after_normalising(vae: VideoVAE, home: Path) -> None:
    """The statistics in the shipped configuration are those of the training clips."""
    cache = ClipCache(folder=home / "cache", num_frames=FRAMES, size=SIZE)
    clips = [torch.from_numpy(cache.rgb(1_000_000 + index)) for index in range(VAE.clips)]
    normalised = vae.encode_normalised(video_from_frames(torch.stack(clips))).tensor
    torch.testing.assert_close(normalised.mean((0, 2, 3, 4)), torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3, 4)), torch.ones(4), atol=0.05, rtol=0)


def test_normalising_is_undone_by_denormalising(vae: VideoVAE) -> None:
    raw = RawLatents(tensor=torch.randn(1, 4, 2, 4, 4))
    torch.testing.assert_close(vae.denormalise(vae.normalise(raw)).tensor, raw.tensor)
    latents = Latents(tensor=torch.randn(1, 4, 2, 4, 4))
    torch.testing.assert_close(vae.decode_normalised(latents), vae.decode(vae.denormalise(latents)))


def test_decoding_without_the_clamp_is_decoding_before_the_clamp(vae: VideoVAE) -> None:
    latents = 3.0 * torch.randn(1, 4, 2, 4, 4)
    unclamped = _decode_unclamped(vae.model, latents)
    assert unclamped.abs().max() > 1.0
    torch.testing.assert_close(unclamped.clamp(-1, 1), vae.model.decode(latents).sample, rtol=1e-4, atol=1e-4)


def test_frames_survive_the_way_to_video_and_back() -> None:
    frames = torch.randint(0, 256, (1, 2, 3, 4, 3), dtype=torch.uint8)
    video = video_from_frames(frames)
    assert video.shape == (1, 3, 2, 3, 4)
    assert video.amin() >= -1.0
    assert video.amax() <= 1.0
    assert torch.equal(frames_from_video(video), frames)


@pytest.mark.parametrize(
    ("index", "shape"),
    [(0, (2, 3, 1, 16, 16)), (50, (2, 3, 1, 16, 16)), (51, (1, 3, 5, 16, 16)), (90, (1, 3, 5, 32, 32))],
)
def test_training_starts_with_frames_and_ends_with_whole_clips(home: Path, index: int, shape: tuple[int, ...]) -> None:
    cache = ClipCache(folder=home / "cache", num_frames=FRAMES, size=SIZE)
    config = LoopConfig(steps=100, learning_rate=1.0)
    step = Step.of(index if index != 50 else 52, config)
    assert sample_batch(cache, VAE, step).shape == shape


def test_the_loss_is_the_sum_that_the_settings_say(vae: VideoVAE, video: torch.Tensor) -> None:
    losses = vae_losses(vae.model, video, VAE, torch.Generator().manual_seed(0))
    expected = losses["pixel"] + VAE.gradient_weight * losses["slope"] + VAE.kl_weight * losses["kl"]
    torch.testing.assert_close(losses["loss"], expected)


def test_a_finished_vae_reports_its_held_out_quality(vae_folder: Path) -> None:
    report = json.loads((vae_folder.parent / "vae.json").read_text())
    assert report["steps"] == LOOP.steps
    assert set(report["held_out"]) == {"psnr", "psnr_first_frame", "chroma_correlation", "clips"}
    assert AutoencoderKLWan.from_pretrained(vae_folder).config.latents_mean != [0.0] * 4


@pytest.fixture(scope="module")
def pipeline_folder(home: Path, vae_folder: Path) -> Path:
    config = VideoTraining(
        vae=vae_folder,
        architecture=VideoArchitecture(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            ffn_dim=32,
            latent_channels=4,
            text_dim=32,
            text_layers=1,
        ),
        loop=LOOP,
        clips=3,
        batch=4,
        num_frames=FRAMES,
        size=SIZE,
        sampling_steps=2,
    )
    assert pretrain_video(config, home / "video").finished
    return home / "video" / "pipeline"


def test_the_pipeline_runs_with_stock_diffusers(pipeline_folder: Path) -> None:
    pipeline = WanPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a red cube on a grey striped floor, the camera is static"
    options = {"height": SIZE, "width": SIZE, "num_frames": FRAMES, "num_inference_steps": 2, "output_type": "pt"}
    video = pipeline(prompt, max_sequence_length=64, **options).frames
    assert video.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert torch.isfinite(video).all()


def test_shipped_files_are_small_safetensors(pipeline_folder: Path) -> None:
    files = [path for path in pipeline_folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json"}
    assert (pipeline_folder.parent / "samples" / "step-000002.png").is_file()
