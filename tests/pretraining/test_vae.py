"""``pretrain vae``. Oracles: the clip that a crop was cut from, diffusers' own decoder, closed forms of the losses,
and an uninterrupted run beside one that was stopped and resumed.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.pretraining import vae as pretraining
from vggrpo.pretraining.data import ClipCache, default_cache
from vggrpo.pretraining.vae import (
    LOG_VARIANCE_AT_START,
    VaeArchitecture,
    VaeTraining,
    multiply_pointwise,
    pretrain_vae,
    reconstruction_quality,
    sample_batch,
    vae_losses,
)
from vggrpo.runtime.training import LoopConfig, Step
from vggrpo.types import RawLatents
from vggrpo.worlds import FIRST_TRAINING_SEED

CONFIG = VaeTraining(
    architecture=VaeArchitecture(base_dim=8, decoder_base_dim=8),
    loop=LoopConfig(steps=6, learning_rate=1e-3, warmup_steps=1, ema_decay=0.9, checkpoint_every=2, sample_every=3),
    clips=3,
    clips_at_start=2,
    num_frames=9,
    size=32,
    crop=16,
    whole_crop=24,
    single_frames=2,
    clip_frames=5,
    clips_a_step=2,
    phases=(0.2, 0.6),
    full_length_from=0.8,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return ClipCache(folder=tmp_path_factory.mktemp("cache"), num_frames=9, size=32)


def step(index: int, *, config: VaeTraining = CONFIG) -> Step:
    return Step.of(index, config.loop)


def is_cut_from(crop: np.ndarray, frames: np.ndarray) -> bool:
    """Whether ``crop`` [h, w, 3] is a window of any of ``frames`` [N, H, W, 3], or of its mirror image."""
    for frame in (*frames, *frames[:, :, ::-1]):
        windows = sliding_window_view(frame, crop.shape).squeeze(2)
        candidates = windows[(windows[..., 0, 0, :] == crop[0, 0]).all(-1)]
        if (candidates == crop).all((1, 2, 3)).any():
            return True
    return False


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (0, (2, 3, 1, 16, 16)),  # single frames
        (1, (2, 3, 1, 16, 16)),
        (2, (2, 3, 5, 16, 16)),  # clips
        (4, (1, 3, 5, 24, 24)),  # nearly whole frames, every second step
        (3, (2, 3, 5, 16, 16)),
        (5, (1, 3, 9, 16, 16)),  # crops of full length
    ],
)
def test_each_phase_has_its_crops(cache: ClipCache, index: int, shape: tuple[int, ...]) -> None:
    batch = sample_batch(cache, CONFIG, step(index))
    assert batch.shape == shape
    assert torch.equal(batch, sample_batch(cache, CONFIG, step(index)))
    clips = [cache.rgb(FIRST_TRAINING_SEED + seed) for seed in range(CONFIG.clips)]
    for crop in frames_from_video(batch).numpy():
        assert any(is_cut_from(crop[0], clip) for clip in clips)


def test_steps_draw_different_crops(cache: ClipCache) -> None:
    assert not torch.equal(sample_batch(cache, CONFIG, step(0)), sample_batch(cache, CONFIG, step(1)))


def test_the_pool_of_clips_grows_while_they_are_rendered() -> None:
    asked = []

    class Recording(ClipCache):
        def frames(self, seed: int, *, start: int, count: int) -> np.ndarray:
            asked.append(seed - FIRST_TRAINING_SEED)
            return np.zeros((count, 32, 32, 3), np.uint8)

    config = replace(CONFIG, clips=10, clips_at_start=2, single_frames=300, loop=replace(CONFIG.loop, steps=1000))
    cache = Recording(folder=Path("nowhere"), num_frames=9, size=32)
    for index, pool in ((0, 2), (7, 5), (100, 10)):
        asked.clear()
        sample_batch(cache, config, step(index, config=config))
        assert set(asked) == set(range(pool))


def test_decoding_for_training_is_decoding_without_the_clamp() -> None:
    """diffusers clamps to ±1; inside, both are the same to the bit, outside the clamp hides what ours shows."""
    torch.manual_seed(0)
    model = CONFIG.architecture.build()
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.3)
    latents = torch.randn(2, 16, 3, 4, 4)
    with torch.no_grad():
        unclamped = pretraining._decode_unclamped(model, latents)
        stock = model.decode(latents).sample
    inside = float((unclamped.abs() < 1).float().mean())
    assert 0.2 < inside < 0.95
    assert unclamped.shape == (2, 3, 9, 32, 32)
    assert torch.equal(unclamped.clamp(-1, 1), stock)


def test_pointwise_convolutions_are_matrix_products() -> None:
    """The same loss and gradients as through convolutions, in double precision; there are such layers to test."""
    torch.manual_seed(0)
    convolved = CONFIG.architecture.build().double()
    multiplied = CONFIG.architecture.build().double()
    multiplied.load_state_dict(convolved.state_dict())
    multiply_pointwise(multiplied)
    replaced = [name for name, module in multiplied.named_modules() if "forward" in vars(module)]
    assert any("shortcut" in name for name in replaced)
    video = torch.rand(1, 3, 5, 32, 32, dtype=torch.float64) * 2 - 1
    for model in (convolved, multiplied):
        model.decode(model.encode(video).latent_dist.mean).sample.square().mean().backward()
    for name, weight in convolved.named_parameters():
        torch.testing.assert_close(multiplied.get_parameter(name).grad, weight.grad, msg=name)


def test_losses_are_what_their_names_say() -> None:
    """Closed forms: a fresh posterior has one log-variance, and a decoder of zeros leaves the video as its error."""
    torch.manual_seed(0)
    model = CONFIG.architecture.build()
    for parameter in model.decoder.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    losses = vae_losses(model, video, CONFIG, torch.Generator().manual_seed(0))
    mean = model.encode(video).latent_dist.mean
    log_variance = LOG_VARIANCE_AT_START
    kl = 0.5 * (mean.square().mean() + np.exp(log_variance) - 1 - log_variance)
    slope = video.diff(dim=-1).abs().mean() + video.diff(dim=-2).abs().mean()
    torch.testing.assert_close(losses["kl"], kl)
    torch.testing.assert_close(losses["pixel"], video.abs().mean())
    torch.testing.assert_close(losses["slope"], slope)
    torch.testing.assert_close(losses["psnr"], 10 * torch.log10(4 / video.square().mean()))
    torch.testing.assert_close(losses["loss"], video.abs().mean() + 0.5 * slope + 1e-5 * kl)
    grey = video.mean(1, keepdim=True).expand_as(video).contiguous()
    assert vae_losses(model, grey, CONFIG, torch.Generator())["chroma"].item() == pytest.approx(0, abs=1e-6)


def test_the_posterior_is_sampled_from_the_given_generator() -> None:
    torch.manual_seed(0)
    model = CONFIG.architecture.build()
    video = torch.rand(1, 3, 1, 16, 16) * 2 - 1
    first, again, other = (
        vae_losses(model, video, CONFIG, torch.Generator().manual_seed(seed))["loss"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    model = CONFIG.architecture.build()
    vae_losses(model, torch.rand(1, 3, 5, 16, 16), CONFIG, torch.Generator().manual_seed(0))["loss"].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_quality_of_a_known_error(cache: ClipCache) -> None:
    """A 'VAE' whose error is 0.02 everywhere has 20 log10(2 / 0.02) = 40 dB and leaves chroma alone."""

    class Off(VideoVAE):
        def encode(self, video: Tensor) -> RawLatents:
            return RawLatents(tensor=video)

        def decode(self, latents: RawLatents) -> Tensor:
            return latents.tensor + 0.02

    quality = reconstruction_quality(Off(model=CONFIG.architecture.build()), cache, clips=2)
    assert quality.psnr == pytest.approx(40.0, abs=0.01)
    assert quality.psnr_first_frame == pytest.approx(40.0, abs=0.01)
    assert quality.chroma_correlation == 1.0


def train(out: Path, monkeypatch: pytest.MonkeyPatch, *, stop_at: int = -1, resume: bool = False) -> bool:
    """Run ``pretrain_vae``; at step ``stop_at`` the process is asked to end, as a scheduler would."""

    def batch(cache: ClipCache, config: VaeTraining, step: Step) -> Tensor:
        if step.index == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return sample_batch(cache, config, step)

    monkeypatch.setattr(pretraining, "sample_batch", batch)
    return pretrain_vae(CONFIG, out, resume=resume).finished


def metrics(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def test_a_stopped_and_resumed_training_makes_the_same_vae(
    tmp_path: Path, cache: ClipCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGGRPO_CACHE", str(cache.folder))
    assert default_cache() == cache.folder
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(straight, monkeypatch)
    assert not train(stopped, monkeypatch, stop_at=2)
    assert not (stopped / "vae").exists()
    assert train(stopped, monkeypatch, resume=True)
    assert metrics(straight) == metrics(stopped)
    assert [row["step"] for row in metrics(straight)] == [1, 2, 3, 4, 5, 6]
    weights = "vae/diffusion_pytorch_model.safetensors"
    assert (straight / weights).read_bytes() == (stopped / weights).read_bytes()
    assert (straight / "vae/config.json").read_text() == (stopped / "vae/config.json").read_text()
    assert Image.open(straight / "samples" / "step-000006.png").size == (3 * 32, 4 * 2 * 32)

    exported = load_file(straight / weights)
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    average = load_file(straight / "checkpoints" / "step-000006" / "state.safetensors")
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, average[f"ema/vae.{name}"].bfloat16(), rtol=0, atol=0)
    vae = VideoVAE.load(straight / "vae", dtype=torch.float32, device=torch.device("cpu"))
    clips = np.stack([cache.rgb(FIRST_TRAINING_SEED + seed) for seed in range(CONFIG.clips)])
    latents = vae.encode_normalised(video_from_frames(torch.from_numpy(clips))).tensor
    # The statistics in the configuration make diffusion's latents standard.
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(16), rtol=0, atol=0.1)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), rtol=0, atol=0.1)
    report = json.loads((straight / "vae.json").read_text())
    assert report["steps"] == 6
    assert report["held_out"]["clips"] == 16


@pytest.mark.parametrize("decoder_only", [True, False])
def test_a_finished_vae_is_trained_further(
    tmp_path: Path, cache: ClipCache, monkeypatch: pytest.MonkeyPatch, *, decoder_only: bool
) -> None:
    """It begins where the other ended; with the decoder alone, latents and their statistics do not move a bit."""
    monkeypatch.setenv("VGGRPO_CACHE", str(cache.folder))
    finished = tmp_path / "finished"
    CONFIG.architecture.build().save_pretrained(finished)
    further = CONFIG.going_on(finished, decoder_only=decoder_only)
    before, began = AutoencoderKLWan.from_pretrained(finished), further.build()
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), began.parameters(), strict=True))
    assert sample_batch(cache, further, step(1, config=further)).shape[2] > 1  # no phase of single frames

    further = replace(further, loop=CONFIG.loop)
    assert pretrain_vae(further, tmp_path / "out").finished
    after = AutoencoderKLWan.from_pretrained(tmp_path / "out" / "vae")
    moved = {
        name.split(".")[0]
        for (name, was), now in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(was.bfloat16(), now.bfloat16())
    }
    assert moved == ({"decoder", "post_quant_conv"} if decoder_only else set(dict(before.named_children())))
    assert (after.config.latents_std == before.config.latents_std) == decoder_only
