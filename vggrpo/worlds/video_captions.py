"""Captions of videos in a folder: a text file beside each video, or one table for all.

A table is CSV (with a heading) or JSON Lines. One of the columns ``file``, ``file_name``, ``video`` or ``path`` names
the video by its path in the folder, by its file name, or by that name without its ending; one of ``caption``, ``text``
or ``prompt`` is what it shows. ``file_name`` with ``text`` is how Hugging Face's video folders are written.
"""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vggrpo.runtime.errors import UserError

TABLE_NAMES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
"""Tables that are found without being named."""
VIDEO_COLUMNS = ("file", "file_name", "video", "path")
CAPTION_COLUMNS = ("caption", "text", "prompt")
MAX_TABLE_BYTES = 512 * 2**20
MAX_CAPTION_BYTES = 64 * 2**10
# A dense caption is longer than the csv module expects a field to be.
_MAX_FIELD = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """What a table says, by each name that it may give a video."""

    by_name: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Path) -> "Captions":
        """A CSV or JSON Lines file. Raises a UserError that names the file, and the line where there is one."""
        by_name = {}
        for number, row in enumerate(read_rows(table), start=1):
            video, caption = _first(row, VIDEO_COLUMNS), _first(row, CAPTION_COLUMNS)
            if video is None or caption is None:
                missing = VIDEO_COLUMNS if video is None else CAPTION_COLUMNS
                raise UserError(f"{table}: row {number} has none of the columns {', '.join(missing)}.")
            if caption.strip():
                by_name[video.strip()] = caption.strip()
        return cls(by_name=by_name)

    def of(self, name: str) -> str | None:
        """The caption of a video or scene by its path in the folder."""
        path = PurePosixPath(name)
        keys = (name, path.with_suffix("").as_posix(), path.name, path.stem)
        return next((self.by_name[key] for key in keys if key in self.by_name), None)


def read_rows(table: Path) -> Iterable[dict[str, str]]:
    """The rows of a CSV or JSON Lines file, values as text. Raises a UserError."""
    try:
        if table.stat().st_size > MAX_TABLE_BYTES:
            raise UserError(f"{table} is too large for a table of captions.")
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".jsonl":
                yield from _json_rows(file, table)
                return
            csv.field_size_limit(_MAX_FIELD)
            for row in csv.DictReader(file):
                yield {str(name): value for name, value in row.items() if isinstance(value, str)}
    except FileNotFoundError as error:
        raise UserError(f"{table} does not exist: give a .csv or .jsonl file of captions.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}); give a UTF-8 .csv or .jsonl file.") from error


def sidecar_caption(text: Path) -> str | None:
    """The content of a text file beside a video; None where there is none or it is empty.

    Raises:
        UserError: it is no text.
    """
    if not text.is_file():
        return None
    try:
        with text.open(encoding="utf-8") as file:
            return " ".join(file.read(MAX_CAPTION_BYTES).split()) or None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text} cannot be read as a caption: give UTF-8 text.") from error


def _json_rows(lines: Iterable[str], table: Path) -> Iterable[dict[str, str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{table}: line {number} is no JSON object.") from error
        if not isinstance(row, dict):
            raise UserError(f"{table}: line {number} is no JSON object.")
        yield {str(name): str(value) for name, value in row.items() if isinstance(value, str | int | float)}


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((row[name] for name in names if name in row), None)
