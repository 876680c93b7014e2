"""Presets. Oracle: the arithmetic between their own numbers, and names with one letter wrong."""

import dataclasses

import pytest

from vggrpo.presets import ASSETS, PRESETS, get_preset
from vggrpo.runtime.errors import UserError


def test_presets_are_found_by_their_own_names() -> None:
    assert {"tiny", "tiny-debug"} <= PRESETS.keys()
    for name, preset in PRESETS.items():
        assert get_preset(name) is preset
        assert preset.name == name


@pytest.mark.parametrize(
    ("asked", "nearest"), [("tinny", "tiny"), ("Tiny", "tiny"), ("tiny_debug", "tiny-debug"), ("debug", "tiny-debug")]
)
def test_a_slip_of_the_keyboard_gets_the_nearest_name(asked: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"{asked!r}: did you mean {nearest!r}"):
        get_preset(asked)


@pytest.mark.parametrize("asked", ["", "zzz", "stable-video-4d" * 20])
def test_a_name_that_is_near_to_none_gets_the_list(asked: str) -> None:
    with pytest.raises(UserError, match="choose one of tiny, tiny-debug") as caught:
        get_preset(asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_fit_the_video_vae(name: str) -> None:
    """4 (T − 1) + 1 frames; sides in whole patches of two latent cells."""
    preset = PRESETS[name]
    assert 4 * (preset.latent_frames - 1) + 1 == preset.num_frames
    assert preset.height % 16 == 0
    assert preset.width % 16 == 0


def test_the_embedded_preset_is_the_one_that_the_design_fixes() -> None:
    tiny = get_preset("tiny")
    assert (tiny.height, tiny.width, tiny.num_frames, tiny.fps, tiny.latent_frames) == (128, 128, 17, 8, 5)
    assert tiny.folders is not None
    assert tiny.folders.manifest == ASSETS / "MANIFEST.json"
    assert ASSETS.parent.joinpath("vggrpo").is_dir()


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["tiny"].steps = 1
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["tiny"]


@pytest.mark.parametrize(
    ("name", "shape"), [("wan2.1-t2v-1.3b", (16, 21, 60, 104)), ("wan2.2-ti2v-5b", (48, 31, 44, 80))]
)
def test_released_presets_are_those_of_their_authors(name: str, shape: tuple[int, ...]) -> None:
    """480×832×81 gives 16×21×60×104 latents (2,096,640 numbers); 704×1280×121 behind a 16× VAE of 48 channels."""
    preset = get_preset(name)
    assert preset.latent_shape == shape
    assert (preset.steps, preset.guidance, preset.max_tokens) == (50, 5.0, 512)
    assert preset.negative_prompt.startswith("色调艳丽")
    assert not preset.closed_vocabulary
    assert preset.sizes is not None
    assert preset.sizes.vae["z_dim"] == preset.latent_channels == preset.sizes.transformer["in_channels"]
    assert preset.sizes.vae["scale_factor_spatial"] == preset.spatial_factor
    assert preset.sizes.expand_timesteps == preset.takes_first_frame
    assert len(preset.sizes.vae["latents_mean"]) == len(preset.sizes.vae["latents_std"]) == preset.latent_channels


def test_another_size_keeps_everything_else() -> None:
    preset = get_preset("wan2.1-t2v-1.3b")
    smaller = preset.sized(height=240, width=416, frames=33)
    assert smaller.latent_shape == (16, 9, 30, 52)
    assert dataclasses.replace(smaller, height=480, width=832, num_frames=81) == preset
    assert preset.sized() is preset
    assert get_preset("tiny").sized(height=128) is get_preset("tiny")
    for wrong in ({"height": 241}, {"frames": 1}, {"frames": 34}, {"width": -16}):
        with pytest.raises(UserError, match="for example"):
            preset.sized(**wrong)
