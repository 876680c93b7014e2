"""What is refused before anything is loaded. Oracle: the table of bad requests, each with the words it must get."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggrpo.generation.request import MAX_PROMPT_CHARACTERS, MAX_SEED, MAX_STEPS, GenerateRequest, read_first_frame
from vggrpo.runtime.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t"}, "prompt is empty"),
        ({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "2001 characters; give at most 2000"),
        ({"preset": "tinny"}, "did you mean 'tiny'"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": MAX_SEED + 1}, "seed is"),
        ({"steps": 0}, "0 denoising steps"),
        ({"steps": MAX_STEPS + 1}, "give 1 to 200"),
        ({"guidance": math.nan}, "guidance scale is nan"),
        ({"guidance": math.inf}, "guidance scale is inf"),
        ({"guidance": 0.5}, "guidance scale is 0.5"),
        ({"guidance": 31.0}, "guidance scale is 31"),
        ({"first_frame": Path("missing.png")}, "missing.png does not exist"),
        ({"adapter": Path("missing.safetensors")}, "missing.safetensors does not exist"),
    ],
)
def test_bad_requests_say_what_is_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GenerateRequest(**{"prompt": "a red cube", **settings})
    assert "\n" not in str(caught.value)


def test_the_limits_themselves_are_allowed() -> None:
    GenerateRequest(prompt="x" * MAX_PROMPT_CHARACTERS, seed=MAX_SEED, steps=MAX_STEPS, guidance=30.0)
    GenerateRequest(prompt="x", seed=0, steps=1, guidance=1.0)


def test_a_first_frame_is_cropped_in_the_middle(tmp_path: Path) -> None:
    """Three bands, red, green and blue, side by side: the middle square is green."""
    bands = np.zeros((40, 120, 3), np.uint8)
    for index in range(3):
        bands[:, 40 * index : 40 * (index + 1), index] = 255
    Image.fromarray(bands).save(tmp_path / "bands.png")
    frame = np.asarray(read_first_frame(tmp_path / "bands.png", height=20, width=20))
    assert frame.shape == (20, 20, 3)
    # The resampling filter reaches two pixels over the crop's edges.
    assert (frame[:, 2:-2] == (0, 255, 0)).all()


def test_a_photo_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    """EXIF orientation 3 is upside down."""
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    frame = np.asarray(read_first_frame(tmp_path / "turned.png", height=20, width=20))
    assert (frame[10:] == 255).all()
    assert (frame[:10] == 0).all()


def test_transparent_and_grey_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (30, 30)).save(tmp_path / f"{mode}.png")
        assert read_first_frame(tmp_path / f"{mode}.png", height=16, width=16).mode == "RGB"


@pytest.mark.parametrize("damage", ["text", "truncated", "folder", "huge"])
def test_what_is_no_image_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "frame.png"
    if damage == "text":
        path.write_text("a red cube")
    elif damage == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "folder":
        path.mkdir()
    else:
        Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(UserError, match=r"frame\.png") as caught:
        read_first_frame(path, height=64, width=64)
    assert "\n" not in str(caught.value)
