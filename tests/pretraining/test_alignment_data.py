"""Pairs of latents and frames for ``train-lgm``. Oracle: encoding and decoding the stored halves again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worlds.real_videos import write_counting_video
from vggrpo.generation.models import Models, load_models
from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.presets import get_preset
from vggrpo.pretraining.alignment_data import (
    CachedEncoder,
    EncodedClips,
    FilmedFrames,
    geometry_images,
    vae_key,
    world_clips,
)
from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.filmed_clips import FilmedClips, encode_filmed_clips, filmed_frames
from vggrpo.pretraining.generated_clips import GeneratedClips, SamplerSettings, generate_clips
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.runtime.errors import UserError
from vggrpo.worlds import FIRST_TRAINING_SEED
from vggrpo.worlds.clip_decoding import ClipShape, VideoClip
from vggrpo.worlds.video_layouts import list_videos

SETTINGS = SamplerSettings(steps=2, num_frames=5, height=32, width=48)
SHAPE = ClipShape(num_frames=5, height=32, width=48, fps=8)
PROMPTS = ("a red sphere on a grey tiled floor", "a blue cube on a grey tiled floor", "a cone")


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(get_preset("tiny-debug"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ClipCache:
    return ClipCache(folder=tmp_path_factory.mktemp("cache"), num_frames=5, size=32)


@pytest.fixture
def encodings(models: Models, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry each time that the VAE encodes."""
    calls: list[int] = []
    encode = VideoVAE.encode

    def counting(self: VideoVAE, video: torch.Tensor) -> object:
        calls.append(len(video))
        return encode(self, video)

    monkeypatch.setattr(VideoVAE, "encode", counting)
    return calls


def generate(
    models: Models, folder: Path, *, count: int = 2, settings: SamplerSettings = SETTINGS, patch_size: int = 16
) -> GeneratedClips:
    return generate_clips(
        models.transformer,
        models.text,
        models.vae,
        prompts=PROMPTS[:count],
        folder=folder,
        settings=settings,
        patch_size=patch_size,
    )


def direct_latents(models: Models, frames: np.ndarray) -> torch.Tensor:
    return models.vae.encode_normalised(video_from_frames(torch.from_numpy(frames)[None])).tensor


@torch.no_grad()
def test_world_clips_are_training_clips_and_cached_is_uncached_to_the_bit(
    models: Models, cache: ClipCache, tmp_path: Path, encodings: list[int]
) -> None:
    frames = cache.rgb(FIRST_TRAINING_SEED)
    expected = direct_latents(models, frames)
    encodings.clear()
    # One clip only: the checks of types that tests run with read any clip of a sequence that is passed on.
    clips = world_clips(cache, models.vae, count=1, patch_size=16, folder=tmp_path)
    assert len(clips) == 1
    for _ in range(2):
        clip = clips[0]
        assert clip.images.shape == (1, 5, 3, 32, 32)
        torch.testing.assert_close(clip.images[0] * 255, torch.from_numpy(frames).permute(0, 3, 1, 2).float())
        assert torch.equal(clip.latents.tensor, expected)
        assert clip.latents.tensor.dtype == torch.float32
    again = world_clips(cache, models.vae, count=2, patch_size=16, folder=tmp_path)
    assert torch.equal(again.latents(0).tensor, expected)
    assert again.identity(0) == clips.identity(0) != again.identity(1)
    assert len(encodings) <= 2, "encoded once, by the first of three readings"


def test_latents_of_another_vae_are_never_read(models: Models, cache: ClipCache, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = VideoVAE(model=VaeArchitecture(base_dim=8, decoder_base_dim=8).build().eval())
    assert vae_key(other) != vae_key(models.vae)
    first = world_clips(cache, models.vae, count=1, patch_size=16, folder=tmp_path).latents(0)
    second = world_clips(cache, other, count=1, patch_size=16, folder=tmp_path).latents(0)
    assert not torch.allclose(first.tensor, second.tensor)
    before = vae_key(other)
    other.model.register_to_config(latents_mean=[1.0] * 16)
    assert vae_key(VideoVAE(model=other.model)) != before, "other statistics give other normalised latents"


def test_a_clip_that_was_cut_off_in_the_cache_is_encoded_again(
    models: Models, cache: ClipCache, tmp_path: Path, encodings: list[int]
) -> None:
    clips = world_clips(cache, models.vae, count=2, patch_size=16, folder=tmp_path)
    # Copies: tensors from a file are mapped, and this test writes into the file itself.
    whole = [clips.latents(index).tensor.clone() for index in range(2)]
    encodings.clear()
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-7])
    after = [clips.latents(index).tensor for index in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(whole, after, strict=True))
    assert len(encodings) == 1


@torch.no_grad()
def test_generated_frames_are_decoded_from_the_stored_latents(models: Models, tmp_path: Path) -> None:
    clips = generate(models, tmp_path)
    assert len(clips) == 2
    for index in range(2):
        clip = clips[index]
        assert clip.latents.tensor.shape == (1, 16, 2, 4, 6)
        assert torch.equal(clips.latents(index).tensor, clip.latents.tensor)
        decoded = frames_from_video(models.vae.decode_normalised(clip.latents))
        stored = (clip.images.permute(0, 1, 3, 4, 2) * 255).round().to(torch.uint8)
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


def test_clips_of_other_settings_are_other_clips(models: Models, tmp_path: Path) -> None:
    generate(models, tmp_path, count=1)
    clip = generate(models, tmp_path, count=1, settings=replace(SETTINGS, num_frames=9, height=64, width=64))[0]
    assert clip.latents.tensor.shape == (1, 16, 3, 8, 8)
    assert clip.images.shape == (1, 9, 3, 64, 64)
    assert len(list(tmp_path.iterdir())) == 2


def test_images_have_the_geometry_models_size() -> None:
    frames = np.full((5, 32, 48, 3), 51, dtype=np.uint8)
    for patch, size in ((16, (32, 48)), (14, (28, 42))):
        images = geometry_images(frames, patch_size=patch)
        assert images.shape == (1, 5, 3, *size)
        torch.testing.assert_close(images, torch.full_like(images, 0.2))


def film(folder: Path, models: Models, cache: Path, *, count: int = 10) -> FilmedClips:
    return encode_filmed_clips(
        list_videos(folder, shape=SHAPE), CachedEncoder(models.vae, cache=cache), shape=SHAPE, count=count, seed=0
    )


@torch.no_grad()
def test_filmed_clips_are_encoded_once_and_decoded_again_to_the_same_bytes(
    models: Models, tmp_path: Path, encodings: list[int]
) -> None:
    videos = tmp_path / "videos"
    write_counting_video(videos / "a.mp4", 12)
    write_counting_video(videos / "b.mp4", 6)
    (videos / "broken.mp4").write_bytes(b"\0" * 300)
    filmed = film(videos, models, tmp_path / "cache")
    assert len(filmed.clips) == 3
    assert [one.name for one in filmed.skipped] == ["broken.mp4"]
    assert "3 clips of 2 videos" in filmed.summary()
    assert "1 skipped" in filmed.summary()
    clips = EncodedClips(filmed_frames(filmed), CachedEncoder(models.vae, cache=tmp_path / "cache"), patch_size=14)
    assert len(encodings) == 3
    for index, source in enumerate(filmed_frames(filmed)):
        assert torch.equal(clips[index].latents.tensor, clips.latents(index).tensor)
        assert clips[index].images.shape == (1, 5, 3, 28, 42)
        assert np.array_equal(source.frames(), source.frames())
    assert len(encodings) == 3
    for index, source in enumerate(filmed_frames(filmed)):
        assert torch.equal(clips.latents(index).tensor, direct_latents(models, source.frames()))


def test_encoding_goes_on_where_it_was_killed(
    models: Models, tmp_path: Path, encodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    for name in "abc":
        write_counting_video(videos / f"{name}.mp4", 6)
    read: list[str] = []

    def dying(clip: VideoClip) -> np.ndarray:
        if len(read) == 2:
            raise SystemExit(143)
        read.append(clip.source.name)
        return FilmedFrames(clip=clip).frames()

    with monkeypatch.context() as patch:
        patch.setattr("vggrpo.pretraining.filmed_clips.read_clip", dying)
        with pytest.raises(SystemExit):
            film(videos, models, tmp_path / "cache")
    assert len(encodings) == 2
    killed = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.*")}
    resumed = film(videos, models, tmp_path / "cache")
    assert len(encodings) == 3
    assert [clip.source.name for clip in resumed.clips][:2] == read
    straight = film(videos, models, tmp_path / "straight")
    assert [clip.identity for clip in straight.clips] == [clip.identity for clip in resumed.clips]
    made = {path.name: path.read_bytes() for path in (tmp_path / "straight").rglob("*.safetensors")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert all(made[path.name] == content for path, content in killed.items())


def test_a_video_that_breaks_off_is_skipped_and_another_takes_its_place(models: Models, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    write_counting_video(videos / "a.mp4", 12)
    write_counting_video(videos / "b.mp4", 40)
    content = (videos / "b.mp4").read_bytes()
    # The index stays whole, the pictures behind the first ones are gone.
    start = content.index(b"mdat")
    (videos / "b.mp4").write_bytes(content[: start + 60] + b"\0" * (len(content) - start - 60))
    filmed = film(videos, models, tmp_path / "cache", count=2)
    assert [clip.source.name for clip in filmed.clips] == ["a.mp4", "a.mp4"]
    assert [one.name for one in filmed.skipped] == ["b.mp4"]


def test_a_folder_of_which_nothing_can_be_used_says_why(models: Models, tmp_path: Path) -> None:
    write_counting_video(tmp_path / "videos" / "a.mp4", 3)
    with pytest.raises(UserError, match=r"no clip of 5 frames at 8 a second: all 1 videos .* a\.mp4: too short"):
        film(tmp_path / "videos", models, tmp_path / "cache")


def test_a_video_that_changed_meanwhile_is_named(models: Models, tmp_path: Path) -> None:
    write_counting_video(tmp_path / "videos" / "a.mp4", 6)
    filmed = film(tmp_path / "videos", models, tmp_path / "cache", count=1)
    (tmp_path / "videos" / "a.mp4").write_bytes(b"gone")
    with pytest.raises(UserError, match=r"a\.mp4 could be read before"):
        filmed_frames(filmed)[0].frames()
