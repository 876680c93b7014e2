"""Latents on disk. Oracles: encoding one clip directly, the picture in a mirror, and the bytes of files left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vggrpo.latents import VideoVAE, video_from_frames
from vggrpo.pretraining import latent_cache
from vggrpo.pretraining.data import CACHE_VERSION, ClipCache
from vggrpo.pretraining.latent_cache import LatentClips, encode_clips, mirror_caption
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene
from vggrpo.worlds.rendering import FIRST_OBJECT_ID, render_clip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return ClipCache(folder=tmp_path_factory.mktemp("cache"), num_frames=5, size=32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    VaeArchitecture(base_dim=8, decoder_base_dim=8).build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vae(weights: Path) -> VideoVAE:
    return VideoVAE.load(weights, dtype=torch.float32, device=torch.device("cpu"))


def encode(vae: VideoVAE, cache: ClipCache, folder: Path, weights: Path, *, count: int = 3) -> LatentClips:
    return encode_clips(vae, cache, count=count, folder=folder, weights=weights)


def test_every_clip_is_there_with_its_mirror_image(
    vae: VideoVAE, cache: ClipCache, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "CHUNK", 2)
    clips = encode(vae, cache, tmp_path, weights)
    assert clips.latents.shape == (6, 16, 2, 4, 4)
    assert clips.latents.dtype == torch.float32
    for index in range(3):
        frames = cache.rgb(FIRST_TRAINING_SEED + index)
        caption = sample_scene(FIRST_TRAINING_SEED + index).caption
        for row, (seen, words) in enumerate([(frames, caption), (frames[:, :, ::-1], mirror_caption(caption))]):
            expected = vae.encode_normalised(video_from_frames(torch.from_numpy(seen.copy())[None])).tensor[0]
            torch.testing.assert_close(
                clips.latents[2 * index + row], expected.bfloat16().float(), rtol=2e-2, atol=1e-4
            )
            assert clips.captions[2 * index + row] == words


def test_encoding_goes_on_from_the_last_whole_chunk(
    vae: VideoVAE, cache: ClipCache, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_cache, "CHUNK", 2)
    expected = encode(vae, cache, tmp_path, weights)
    whole, damaged = sorted(tmp_path.rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    encoded: list[int] = []
    encode_chunk = latent_cache._encode_chunk

    def recording(vae: VideoVAE, cache: ClipCache, seeds: range) -> torch.Tensor:
        encoded.extend(seeds)
        return encode_chunk(vae, cache, seeds)

    monkeypatch.setattr(latent_cache, "_encode_chunk", recording)
    again = encode(vae, cache, tmp_path, weights)
    assert encoded == [FIRST_TRAINING_SEED + 2]
    assert torch.equal(again.latents, expected.latents)
    assert sorted(tmp_path.rglob("*.*")) == [whole, damaged]


def test_latents_of_another_vae_are_never_read(vae: VideoVAE, cache: ClipCache, weights: Path, tmp_path: Path) -> None:
    first = encode(vae, cache, tmp_path / "cache", weights, count=1)
    torch.manual_seed(1)
    other_weights = tmp_path / "other"
    VaeArchitecture(base_dim=8, decoder_base_dim=8).build().save_pretrained(other_weights)
    other_vae = VideoVAE.load(other_weights, dtype=torch.float32, device=torch.device("cpu"))
    second = encode(other_vae, cache, tmp_path / "cache", other_weights, count=1)
    assert not torch.allclose(first.latents, second.latents)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_clips_of_another_world_are_never_read(
    vae: VideoVAE, cache: ClipCache, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the clips' folder and the latents' folder name the world's version."""
    encode(vae, cache, tmp_path, weights, count=1)
    assert CACHE_VERSION in next(cache.folder.iterdir()).name
    monkeypatch.setattr("vggrpo.pretraining.data.CACHE_VERSION", "next")
    monkeypatch.setattr("vggrpo.pretraining.latent_cache.CACHE_VERSION", "next")
    encode(vae, cache, tmp_path, weights, count=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert len(list(cache.folder.iterdir())) == 2


@pytest.mark.parametrize("seed", range(12))
def test_the_mirrored_caption_names_objects_as_the_mirror_shows_them(seed: int) -> None:
    """Rendered: from left to right in the mirrored first frame, by the mean column of each object's pixels."""
    scene = sample_scene(seed, jitter=False)
    seen = render_clip(scene, num_frames=1, height=64, width=64).object_id[0][:, ::-1]
    columns = {}
    for index, item in enumerate(scene.objects):
        places = np.nonzero(seen == FIRST_OBJECT_ID + index)[1]
        columns[item.words.noun] = float(places.mean())
    caption = mirror_caption(scene.caption)
    assert sorted(columns, key=lambda noun: columns[noun]) == sorted(columns, key=caption.index)
