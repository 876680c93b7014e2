"""A picture to look at: the first, middle and last frame of generated clips, beside true clips of the same captions."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 2
"""Clips side by side."""
_GAP = 6
_SEAM = 2
_LETTER = 6
_LINE = 13
_INK = (40, 44, 52)


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One prompt: three frames of the generated clip and three of a true one."""

    caption: str
    generated: UInt8[np.ndarray, "3 H W 3"]
    real: UInt8[np.ndarray, "3 H W 3"]


def key_frames(frames: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "3 H W 3"]:
    """The first, the middle and the last frame."""
    return frames[[0, len(frames) // 2, len(frames) - 1]]


def spread_over_moves(moves: Sequence[str], *, count: int) -> list[int]:
    """Indices of ``count`` clips that show as many camera moves as there are, evenly: first one of each, in order."""
    chosen: list[int] = []
    left = list(range(len(moves)))
    while left and len(chosen) < count:
        round_of: dict[str, int] = {}
        for index in left:
            round_of.setdefault(moves[index], index)
        chosen += sorted(round_of.values())
        left = [index for index in left if index not in chosen]
    return sorted(chosen[:count])


def draw_contact_sheet(rows: Sequence[SheetRow], *, with_captions: bool = True) -> UInt8[np.ndarray, "height width 3"]:
    """The sheet as an image: each prompt is one block, generated frames left, true ones right.

    Without captions a reader can test whether the clips show what they should.
    """
    height, width = rows[0].generated.shape[1:3]
    strip = 3 * width + 2 * _SEAM
    block_width = 2 * strip + 3 * _GAP
    characters = block_width // _LETTER
    lines = max(len(textwrap.wrap(f"00  {row.caption}", characters)) for row in rows) if with_captions else 1
    block_height = height + lines * _LINE + 3 * _GAP
    down = -(-len(rows) // COLUMNS)
    size = (COLUMNS * block_width + _GAP, down * block_height + _LINE + 2 * _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for column in range(COLUMNS):
        left = _GAP + column * block_width
        draw.text((left, _GAP), "generated", fill=_INK, font=font)
        draw.text((left + strip + _GAP, _GAP), "true clip of the same caption", fill=_INK, font=font)
    for index, row in enumerate(rows):
        left = _GAP + (index // down) * block_width
        top = 2 * _GAP + _LINE + (index % down) * block_height
        for offset, frames in ((0, row.generated), (strip + _GAP, row.real)):
            for number, frame in enumerate(frames):
                sheet.paste(Image.fromarray(frame), (left + offset + number * (width + _SEAM), top))
        text = f"{index + 1}  {row.caption}" if with_captions else f"{index + 1}"
        draw.multiline_text(
            (left, top + height + 2), "\n".join(textwrap.wrap(text, characters)), fill=_INK, font=font, spacing=1
        )
    return np.asarray(sheet)
