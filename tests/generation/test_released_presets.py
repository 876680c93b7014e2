"""The released models' presets on small random folders of their kind. Oracle: diffusers' own pipelines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanPipeline
from PIL import Image

from tests.real_models import WAN21, WAN22, write_wan21, write_wan22
from vggrpo.generation import GenerateRequest, Studio
from vggrpo.generation import models as loading
from vggrpo.generation.architecture import architecture_of
from vggrpo.generation.models import LoadListener, load_models
from vggrpo.generation.options import LoadOptions, VideoSize
from vggrpo.policy.sampling import draw_noise
from vggrpo.policy.schedule import noise_grid
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError

PROMPT = "a red cube on a grey striped floor,  the camera orbits left &amp; up"
STEPS = 3
CPU = torch.device("cpu")


class ExplicitSigmas(FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler scheduler on a grid of our own: its default grid would be shifted twice."""

    grid: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None, **_: object) -> None:
        assert num_inference_steps == len(self.grid) - 1
        super().set_timesteps(sigmas=self.grid[:-1].tolist(), device=device)


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that two routes that round differently can be compared tightly."""
    monkeypatch.setattr(loading, "choose_dtype", lambda _device: torch.float32)


@pytest.fixture(scope="module")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan21(tmp_path_factory.mktemp("wan21") / "pipeline")


@pytest.fixture(scope="module")
def wan22(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan22(tmp_path_factory.mktemp("wan22") / "pipeline")


def open_studio(kind: dict[str, object], folder: Path, lines: list[str] | None = None) -> Studio:
    size = VideoSize(height=kind["height"], width=kind["width"], frames=kind["frames"])
    listener = LoadListener(line=(lines if lines is not None else []).append)
    return Studio.load(kind["preset"], LoadOptions(model_folder=folder), size=size, listener=listener)


def stock(folder: Path, preset: str) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    scheduler = ExplicitSigmas(shift=1.0)
    scheduler.grid = noise_grid(STEPS, shift=get_preset(preset).flow_shift)
    pipeline.scheduler = scheduler
    return pipeline


@pytest.mark.parametrize("kind", [WAN21, WAN22], ids=lambda kind: kind["preset"])
def test_text_to_video_is_diffusers_own(kind: dict[str, object], request: pytest.FixtureRequest) -> None:
    """Prompt, the preset's negative prompt, noise and grid to latents and frames: one route is ours, one is theirs."""
    folder = request.getfixturevalue("wan21" if kind is WAN21 else "wan22")
    studio = open_studio(kind, folder)
    preset = studio.preset
    ours = studio.denoise(GenerateRequest(prompt=PROMPT, preset=preset.name, seed=3, steps=STEPS)).tensor
    noise = draw_noise((1, *preset.latent_shape), seed=3, device=CPU)
    call = {
        "prompt": PROMPT,
        "negative_prompt": preset.negative_prompt,
        "height": preset.height,
        "width": preset.width,
        "num_frames": preset.num_frames,
        "num_inference_steps": STEPS,
        "guidance_scale": preset.guidance,
    }
    pipeline = stock(folder, preset.name)
    theirs = pipeline(**call, latents=noise.clone(), output_type="latent").frames
    assert ours.shape == theirs.shape == (1, *preset.latent_shape)
    assert (ours - noise).abs().mean() > 0.05
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    video = pipeline(**call, latents=noise.clone(), output_type="pt").frames
    decoded = studio.vae.decode_normalised(
        studio.denoise(GenerateRequest(prompt=PROMPT, preset=preset.name, seed=3, steps=STEPS))
    )
    torch.testing.assert_close((decoded.clamp(-1, 1) + 1) / 2, video.transpose(1, 2), rtol=1e-3, atol=2e-3)


def test_a_first_frame_is_held_as_diffusers_holds_it(wan22: Path, tmp_path: Path) -> None:
    studio = open_studio(WAN22, wan22)
    preset = studio.preset
    picture = tmp_path / "first.png"
    pixels = np.random.default_rng(0).integers(0, 255, (preset.height, preset.width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    request = GenerateRequest(prompt=PROMPT, preset=preset.name, seed=4, steps=STEPS, first_frame=picture)
    ours = studio.denoise(request).tensor
    text = stock(wan22, preset.name)
    pipeline = WanImageToVideoPipeline(
        tokenizer=text.tokenizer,
        text_encoder=text.text_encoder,
        vae=text.vae,
        scheduler=text.scheduler,
        transformer=text.transformer,
        expand_timesteps=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=Image.open(picture),
        prompt=PROMPT,
        negative_prompt=preset.negative_prompt,
        height=preset.height,
        width=preset.width,
        num_frames=preset.num_frames,
        num_inference_steps=STEPS,
        guidance_scale=preset.guidance,
        latents=draw_noise((1, *preset.latent_shape), seed=4, device=CPU),
        output_type="latent",
    ).frames
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    without = studio.denoise(GenerateRequest(prompt=PROMPT, preset=preset.name, seed=4, steps=STEPS)).tensor
    assert (ours - without)[:, :, 1:].abs().mean() > 1e-3


def test_text_is_embedded_as_the_pipeline_does_at_512_tokens(wan21: Path) -> None:
    """Not at the 226 that ``encode_prompt`` takes unless told otherwise."""
    studio = open_studio(WAN21, wan21)
    text = studio.models.text
    negative = studio.preset.negative_prompt
    embedded, unwanted = stock(wan21, "wan2.1-t2v-1.3b").encode_prompt(PROMPT, negative, max_sequence_length=512)
    assert embedded.shape == (1, 512, 48)
    torch.testing.assert_close(text.embed(PROMPT), embedded)
    torch.testing.assert_close(text.embed(negative), unwanted)
    assert not text.embed(PROMPT)[:, text.count_tokens(PROMPT) :].any()


def test_the_text_encoder_comes_once_and_leaves(wan21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = open_studio(WAN21, wan21)
    text = studio.models.text
    made = []
    make = text._encoder._make
    text._encoder._make = lambda: made.append(1) or make()
    studio.prepare_text(["a red cube", "a blue cube", "a red cube"])
    assert (len(made), text.encoder_is_loaded) == (1, False)
    studio.conditions(GenerateRequest(prompt="a blue cube", preset=studio.preset.name))
    assert len(made) == 1
    text.embed("a green cube")
    assert (len(made), text.encoder_is_loaded) == (2, False)


def test_the_vae_waits_for_frames_and_parts_can_leave(wan21: Path) -> None:
    """Sizes are known before any weight is loaded; a latent reward never loads the VAE."""
    studio = open_studio(WAN21, wan21)
    models = studio.models
    assert models.vae.z_dim == 16
    assert studio.latent_shape == (16, 3, 8, 12)
    latents = studio.denoise(GenerateRequest(prompt=PROMPT, preset=studio.preset.name, steps=1))
    assert not models.vae.is_loaded
    assert not models.geometry_source.is_loaded
    first = studio.vae.decode_normalised(latents)
    assert models.vae.is_loaded
    for part in ("vae", "transformer"):
        models.release(part)
    assert not models.vae.is_loaded
    assert not models.transformer_source.is_loaded
    assert torch.equal(studio.vae.decode_normalised(latents), first)


def test_what_diffusers_keeps_in_fp32_stays_so(wan22: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time embedding, modulation and norms; and the VAE, which its authors run in fp32. A blanket cast undoes both."""
    monkeypatch.setattr(loading, "choose_dtype", lambda _device: torch.bfloat16)
    studio = open_studio(WAN22, wan22)
    pipeline = WanPipeline.from_pretrained(wan22, local_files_only=True, dtype=torch.bfloat16)
    expected = {name: tensor.dtype for name, tensor in pipeline.transformer.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in studio.models.transformer.state_dict().items()} == expected
    assert set(expected.values()) == {torch.bfloat16, torch.float32}
    assert studio.vae.model.dtype == torch.float32


@pytest.mark.parametrize("kind", [WAN21, WAN22], ids=lambda kind: kind["preset"])
def test_a_prompt_longer_than_512_tokens_is_refused_before_the_encoder_loads(
    kind: dict[str, object], request: pytest.FixtureRequest
) -> None:
    studio = open_studio(kind, request.getfixturevalue("wan21" if kind is WAN21 else "wan22"))
    assert studio.unknown_words("an astronaut") == []
    with pytest.raises(UserError, match=r"521 tokens; .* reads at most 512"):
        studio.prepare_text(["red " * 520])
    assert not studio.models.text.encoder_is_loaded


def test_random_weights_have_the_asked_sizes_and_need_no_file(wan21: Path) -> None:
    """A folder's sizes, none of its numbers: what plans and benchmarks build."""
    preset = get_preset("wan2.1-t2v-1.3b").sized(height=64, width=96, frames=9)
    options = LoadOptions(model_folder=wan21, random_weights=True)
    architecture = architecture_of(preset, options)
    with torch.device("meta"):
        transformer = architecture.build_transformer()
        foundation = architecture.build_geometry()
        geometry = architecture.build_latent_geometry(foundation)
    assert {tensor.device.type for tensor in geometry.parameters()} == {"meta"}
    assert foundation.token_dim == 1024, "Any4D at its released size"
    models = load_models(preset, options)
    shapes = {name: tensor.shape for name, tensor in transformer.state_dict().items()}
    assert {name: tensor.shape for name, tensor in models.transformer.state_dict().items()} == shapes
    text = models.text.embed("a red cube")
    assert text.shape == (1, 512, 48)
    assert not text[:, 4:].any()
    assert torch.equal(text, load_models(preset, options).text.embed("a red cube"))
    assert models.vae.z_dim == 16
