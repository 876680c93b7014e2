"""Pairs of latents and frames for ``train-lgm``. Oracle: encoding and decoding the stored halves again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vggrpo.generation.models import Models, load_models
from vggrpo.latents import frames_from_video, video_from_frames
from vggrpo.presets import get_preset
from vggrpo.pretraining.alignment_data import GeneratedClips, SamplerSettings, WorldClips, generate_clips
from vggrpo.pretraining.data import ClipCache
from vggrpo.worlds import FIRST_TRAINING_SEED

SETTINGS = SamplerSettings(steps=2, num_frames=5, size=32)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(get_preset("tiny-debug"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return ClipCache(folder=tmp_path_factory.mktemp("cache"), num_frames=5, size=32)


def generate(models: Models, folder: Path, *, count: int = 2, settings: SamplerSettings = SETTINGS) -> GeneratedClips:
    return generate_clips(models.transformer, models.text, models.vae, count=count, folder=folder, settings=settings)


def test_world_clips_are_training_clips_with_their_latents(models: Models, cache: ClipCache) -> None:
    clips = WorldClips(cache, models.vae, count=3)
    assert len(clips) == 3
    frames = torch.from_numpy(cache.rgb(FIRST_TRAINING_SEED + 2))[None]
    images = clips[2].images
    assert images.shape == (1, 5, 3, 32, 32)
    torch.testing.assert_close(images * 255, frames.permute(0, 1, 4, 2, 3).float())
    expected = models.vae.encode_normalised(video_from_frames(frames)).tensor
    torch.testing.assert_close(clips[2].latents.tensor, expected)


def test_generated_frames_are_decoded_from_the_stored_latents(models: Models, tmp_path: Path) -> None:
    clips = generate(models, tmp_path)
    assert len(clips) == 2
    for index in range(2):
        decoded = frames_from_video(models.vae.decode_normalised(clips[index].latents))
        stored = (clips[index].images.permute(0, 1, 3, 4, 2) * 255).round().to(torch.uint8)
        assert torch.equal(stored, decoded)
    assert not torch.equal(clips[0].latents.tensor, clips[1].latents.tensor)


def test_clips_that_are_there_are_kept_and_damaged_ones_made_again(models: Models, tmp_path: Path) -> None:
    generate(models, tmp_path)
    content = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    kept, damaged = content
    kept_time = kept.stat().st_mtime_ns
    damaged.write_bytes(content[damaged][:-20])
    generate(models, tmp_path, count=3)
    assert kept.stat().st_mtime_ns == kept_time
    assert {path: path.read_bytes() for path in content} == content
    assert len(list(tmp_path.iterdir())) == 3


def test_settings_say_the_size(models: Models, tmp_path: Path) -> None:
    clip = generate(models, tmp_path, count=1, settings=replace(SETTINGS, num_frames=9, size=64))[0]
    assert clip.latents.tensor.shape == (1, 16, 3, 8, 8)
    assert clip.images.shape == (1, 9, 3, 64, 64)
