"""The sheet of clips: every frame is where it should be, pixel by pixel."""

import numpy as np
import pytest

from vggrpo.evaluation.assets import sheet_prompts
from vggrpo.evaluation.contact_sheet import SheetRow, draw_contact_sheet, key_frames, spread_over_moves
from vggrpo.evaluation.prompt_claims import read_claims
from vggrpo.worlds import FIRST_TRAINING_SEED, vocabulary


def flat_frames(first: int) -> np.ndarray:
    """Three frames of one grey each, so that a place in the sheet tells which frame is there."""
    return np.stack([np.full((16, 16, 3), first + index, np.uint8) for index in range(3)])


def test_key_frames_are_first_middle_and_last() -> None:
    frames = np.arange(17, dtype=np.uint8).reshape(17, 1, 1, 1).repeat(3, axis=-1)
    assert key_frames(frames)[:, 0, 0, 0].tolist() == [0, 8, 16]
    assert key_frames(frames[:1])[:, 0, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("with_captions", [True, False])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_every_frame_of_every_prompt_is_on_the_sheet_once(count: int, with_captions: bool) -> None:
    rows = [
        SheetRow(
            caption=f"a red sphere {index}", generated=flat_frames(7 + 6 * index), real=flat_frames(10 + 6 * index)
        )
        for index in range(count)
    ]
    sheet = draw_contact_sheet(rows, with_captions=with_captions)
    greys, counts = np.unique(sheet[(sheet == sheet[..., :1]).all(-1)][:, 0], return_counts=True)
    found = dict(zip(greys.tolist(), counts.tolist(), strict=True))
    for grey in range(7, 7 + 6 * count):
        # Letters are drawn in a colour of their own, and their soft edges are not grey.
        assert found[grey] == 16 * 16
    left = [int(np.argwhere((sheet == 7 + index).all(-1))[:, 1].min()) for index in range(6)]
    assert left == sorted(left)


def test_clips_are_spread_over_camera_moves() -> None:
    moves = ["a", "a", "a", "b", "a", "c", "b"]
    assert spread_over_moves(moves, count=3) == [0, 3, 5]
    assert spread_over_moves(moves, count=4) == [0, 1, 3, 5]
    assert spread_over_moves(moves, count=99) == list(range(7))


def test_the_shipped_sheet_shows_every_camera_move_of_held_out_worlds() -> None:
    prompts = sheet_prompts()
    assert len(prompts) == 16
    assert {read_claims(item.prompt).camera_move for item in prompts} == set(vocabulary.CAMERA_MOVES)
    assert all(item.seed < FIRST_TRAINING_SEED for item in prompts)
    assert prompts == sheet_prompts()
