"""A training run folder as the page sees it. Nothing here trains, and nothing here fails: a file that is missing, or
that another process is writing at this moment, reads as not there yet.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATUS = "status.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
CONFIG = "config.yaml"
ADAPTER = Path("adapter") / "pytorch_lora_weights.safetensors"

_TAIL_BYTES = 16_384
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_STEP = re.compile(r"step-(\d+)")
_SAMPLE = re.compile(r"(\d+)-(\d+)\.mp4")


@dataclass(frozen=True, kw_only=True)
class TrainerStatus:
    """What the trainer last said of itself; ``written`` is the time of saying it, in seconds since 1970."""

    state: str
    iteration: int
    iterations: int
    message: str
    seconds_left: float | None
    written: float


@dataclass(frozen=True, kw_only=True)
class History:
    """Numbers of every iteration: ``series`` by the name in ``metrics.jsonl``, float64 [I], NaN where not logged."""

    iterations: NDArray[np.int64]
    series: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """I."""
        return len(self.iterations)

    def get(self, name: str) -> NDArray[np.float64]:
        """One series; all NaN if nobody logged it."""
        return self.series.get(name, np.full(self.count, np.nan))

    def last(self, name: str) -> float | None:
        """The latest number of a series, or None."""
        known = self.get(name)
        known = known[~np.isnan(known)]
        return float(known[-1]) if known.size else None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One fixed prompt and seed: its video by the base model and by the adapter after some iterations."""

    index: int
    seed: int
    prompt: str
    base: Path | None
    tuned: Mapping[int, Path]
    """Iteration → video, in order."""


def read_status(run: Path) -> TrainerStatus | None:
    """The trainer's own word, or None before its first."""
    path = run / STATUS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = path.stat().st_mtime
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    return TrainerStatus(
        state=str(content.get("state") or ""),
        iteration=int(_number(content.get("iteration"), otherwise=0.0)),
        iterations=int(_number(content.get("iterations"), otherwise=0.0)),
        message=str(content.get("message") or ""),
        seconds_left=_number(content["seconds_left"], otherwise=0.0) if content.get("seconds_left") else None,
        written=written,
    )


def read_history(run: Path) -> History:
    """Every whole line of ``metrics.jsonl``. An iteration that was done again after a resume counts once, anew."""
    try:
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    rows: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            rows[int(row["iteration"])] = row
        except (ValueError, KeyError, TypeError):
            continue  # the line that is being written
    order = sorted(rows)
    names = dict.fromkeys(name for row in rows.values() for name in row if name != "iteration")
    return History(
        iterations=np.array(order, dtype=np.int64),
        series={
            name: np.array([_number(rows[i].get(name), otherwise=np.nan) for i in order], dtype=np.float64)
            for name in names
        },
    )


def read_samples(run: Path) -> tuple[Sample, ...]:
    """The grid of ``samples/``: one row a fixed seed, in order."""
    folder = run / "samples"
    prompts = _read_prompts(folder / "prompts.json")
    rows: dict[tuple[int, int], dict[int | None, Path]] = {}
    for path in sorted(folder.glob("*/*.mp4")):
        name, column = _SAMPLE.fullmatch(path.name), _STEP.fullmatch(path.parent.name)
        if name is None or (column is None and path.parent.name != "base"):
            continue
        row = rows.setdefault((int(name[1]), int(name[2])), {})
        row[int(column[1]) if column else None] = path
    return tuple(
        Sample(
            index=index,
            seed=seed,
            prompt=prompts[index] if index < len(prompts) else "",
            base=row.get(None),
            tuned={step: row[step] for step in sorted(step for step in row if step is not None)},
        )
        for (index, seed), row in sorted(rows.items())
    )


def find_adapter(run: Path) -> Path | None:
    """The latest adapter's weights, once there are some."""
    path = run / ADAPTER
    return path if path.is_file() else None


def newest_checkpoint(run: Path) -> int | None:
    """The iteration of the latest whole checkpoint: the trainer renames a folder only when all of it is written."""
    steps = [
        int(match[1])
        for path in (run / "checkpoints").glob("step-*")
        if (match := _STEP.fullmatch(path.name)) and (path / "state.json").is_file()
    ]
    return max(steps, default=None)


def tail(path: Path, *, lines: int) -> tuple[str, ...]:
    """The last lines of a log without colours; of a line that was overwritten in place only its last form."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    shown = [_ESCAPES.sub("", line).rstrip().rsplit("\r", maxsplit=1)[-1] for line in text.split("\n")]
    return tuple(line for line in shown if line.strip())[-lines:]


def _read_prompts(path: Path) -> list[str]:
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []


def _number(value: object, *, otherwise: float) -> float:
    """A JSON number, else ``otherwise`` (null stands for a number that could not be measured)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
