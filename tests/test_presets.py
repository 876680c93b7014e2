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
