"""The frozen VAE. Oracles: inverses, causality (later frames cannot change earlier ones), all 256 pixel values."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.pretraining.vae import VaeArchitecture
from vggrpo.types import Latents

CPU = torch.device("cpu")
MEAN = [0.1 * index - 0.8 for index in range(16)]
STD = [0.5 + 0.1 * index for index in range(16)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = VaeArchitecture(base_dim=8, decoder_base_dim=8).build()
    model.register_to_config(latents_mean=MEAN, latents_std=STD)
    path = tmp_path_factory.mktemp("vae")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vae(folder: Path) -> VideoVAE:
    return VideoVAE.load(folder, dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.rand(2, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_an_eighth_in_space_and_a_quarter_in_time(vae: VideoVAE, video: Tensor) -> None:
    latents = vae.encode(video).tensor
    assert latents.shape == (2, 16, 3, 4, 4)
    assert vae.encode(video[:, :, :1]).tensor.shape == (2, 16, 1, 4, 4)
    decoded = vae.decode(vae.encode(video))
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1


def test_normalising_uses_each_channels_own_statistics(vae: VideoVAE, video: Tensor) -> None:
    raw = vae.encode(video)
    latents = vae.normalise(raw)
    for channel in (0, 7, 15):
        expected = (raw.tensor[:, channel] - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(latents.tensor[:, channel], expected)
    torch.testing.assert_close(vae.denormalise(latents).tensor, raw.tensor)
    torch.testing.assert_close(vae.encode_normalised(video).tensor, latents.tensor)
    torch.testing.assert_close(vae.decode_normalised(latents), vae.decode(raw), rtol=1e-4, atol=1e-5)


def test_the_two_latent_spaces_cannot_be_mixed(vae: VideoVAE) -> None:
    with pytest.raises(Exception, match="RawLatents"):
        vae.decode(Latents(tensor=torch.zeros(1, 16, 1, 4, 4)))


def test_encoding_is_the_posteriors_mean_and_draws_nothing(vae: VideoVAE, video: Tensor) -> None:
    assert torch.equal(vae.encode(video).tensor, vae.encode(video).tensor)
    assert torch.equal(vae.encode(video).tensor, vae.model.encode(video).latent_dist.mean)


def test_the_past_does_not_depend_on_the_future(vae: VideoVAE, video: Tensor) -> None:
    """Causal in both directions: what makes a single first frame a valid first latent frame."""
    changed = video.clone()
    changed[:, :, 5:] = -changed[:, :, 5:]
    before, after = vae.encode(video), vae.encode(changed)
    assert torch.equal(before.tensor[:, :, :2], after.tensor[:, :, :2])
    assert not torch.equal(before.tensor[:, :, 2:], after.tensor[:, :, 2:])
    torch.testing.assert_close(vae.encode(video[:, :, :1]).tensor, before.tensor[:, :, :1], rtol=1e-4, atol=1e-5)
    one, other = vae.decode(before), vae.decode(after)
    assert torch.equal(one[:, :, :5], other[:, :, :5])
    assert not torch.equal(one[:, :, 5:], other[:, :, 5:])


def test_a_batch_is_its_clips_one_by_one(vae: VideoVAE, video: Tensor) -> None:
    together = vae.encode(video).tensor
    torch.testing.assert_close(together[1:], vae.encode(video[1:]).tensor, rtol=1e-4, atol=1e-5)


def test_a_loaded_vae_is_frozen_and_answers_in_fp32(folder: Path, video: Tensor) -> None:
    half = VideoVAE.load(folder, dtype=torch.bfloat16, device=CPU)
    assert not any(parameter.requires_grad for parameter in half.model.parameters())
    assert not half.model.training
    latents = half.encode(video[:, :, :1])
    assert latents.tensor.dtype == torch.float32
    assert half.decode(latents).dtype == torch.float32


def test_all_pixel_values_survive_the_way_to_video_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(1, 1, 16, 16, 3)
    video = video_from_frames(frames)
    assert (video.min(), video.max()) == (-1.0, 1.0)
    assert torch.equal(frames_from_video(video), frames)


def test_axes_go_where_they_belong() -> None:
    """One marked pixel: clip 1, frame 2, row 3, column 4, blue."""
    frames = torch.zeros(2, 5, 6, 7, 3, dtype=torch.uint8)
    frames[1, 2, 3, 4, 2] = 255
    video = video_from_frames(frames)
    assert video.shape == (2, 3, 5, 6, 7)
    assert torch.nonzero(video == 1).tolist() == [[1, 2, 2, 3, 4]]
    assert torch.equal(frames_from_video(video), frames)


def test_colours_outside_the_range_are_clamped() -> None:
    video = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 1, 2).expand(1, 3, 1, 1, 2)
    assert frames_from_video(video)[0, 0, 0].tolist() == [[0, 0, 0], [255, 255, 255]]
