"""Rewards as a table for a spreadsheet."""

import csv
import io
import json
from pathlib import Path

from scene_export.run_scene import REWARDS_FILE


def rewards_csv(folder: Path, *, out: Path | None = None) -> Path:
    """One row a frame, one column a reward, and a last row ``all`` with each reward of the whole video.

    An empty field is a frame on which the reward is not defined. Guards stand in the last row only.
    """
    rewards = json.loads((folder / REWARDS_FILE).read_text(encoding="utf-8"))
    terms = {name: term for name, term in rewards.items() if isinstance(term, dict) and "per_frame" in term}
    guards = {name: value for name, value in rewards.get("guards", {}).items() if not isinstance(value, dict | list)}
    num_frames = max((len(term["per_frame"]) for term in terms.values()), default=0)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["frame", *terms, *guards])
    for frame in range(num_frames):
        cells = [term["per_frame"][frame] if frame < len(term["per_frame"]) else None for term in terms.values()]
        writer.writerow([frame, *(_cell(value) for value in cells), *("" for _ in guards)])
    writer.writerow(["all", *(_cell(term["value"]) for term in terms.values()), *map(_cell, guards.values())])
    path = out or folder / "rewards.csv"
    path.write_text(buffer.getvalue(), encoding="utf-8")
    return path


def _cell(value: float | None) -> str:
    """A number without loss, nothing for a value that could not be measured."""
    return "" if value is None else repr(value)
