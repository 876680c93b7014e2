"""A run as the page sees it: a frozen view of the files of a run folder. No torch, no models."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VIDEO = "video.mp4"
GEOMETRY = "geometry.npz"
REWARDS = "rewards.json"
MANIFEST = "manifest.json"


class UnreadableRun(ValueError):
    """A run folder that lacks a file or holds one that cannot be read; the message says which."""


@dataclass(frozen=True, kw_only=True)
class RewardTrace:
    """One reward of one video: ``value`` is None (with a ``reason``) where it could not be judged.

    ``per_frame`` is float64 [N], NaN where the term is not defined; higher is better throughout.
    """

    name: str
    value: float | None
    per_frame: NDArray[np.float64]
    reason: str | None = None
    worst_frames: tuple[int, ...] = ()

    @property
    def lowest_frame(self) -> int | None:
        """The frame with the lowest term, or None where no frame was measured."""
        return None if np.isnan(self.per_frame).all() else int(np.nanargmin(self.per_frame))


@dataclass(frozen=True, kw_only=True)
class GuidanceResult:
    """What reward guidance brought: values by name without and with it at the same seed; None = not measured."""

    scale: float
    every: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    guided_steps: int
    skipped_steps: int
    seconds: dict[str, float | None]
    """Of denoising, "guided" and "unguided"."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run folder, read."""

    run_id: str
    folder: Path
    rewards: tuple[RewardTrace, ...]
    guards: dict[str, float | None]
    kind: str = ""
    """What made it, as its manifest says: ``generate``, ``score-video``, ``score-geometry``, ``score-latents``."""
    prompt: str = ""
    seed: int | None = None
    preset: str = ""
    source: str = ""
    """Name of the visitor's file, for a scored run."""
    notes: tuple[str, ...] = ()
    """What was done to that file before it was scored."""
    size: tuple[int, int] | None = None
    """(height, width) of the video, where the manifest states it; the geometry's grid may be coarser."""
    seconds: float | None = None
    """Time it took with the models in memory."""
    reward_guidance: GuidanceResult | None = None

    @property
    def num_frames(self) -> int:
        """N, from the longest trace."""
        return max((len(trace.per_frame) for trace in self.rewards), default=0)

    def rewards_json(self) -> dict[str, object]:
        """The file ``rewards.json`` as it lies in the folder."""
        return read_json(self.folder / REWARDS)


def read_run(folder: Path, *, run_id: str) -> RunResult:
    """Read rewards and manifest of a run folder. Raises ``UnreadableRun``."""
    rewards = read_json(folder / REWARDS)
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    guards = rewards.get("guards", {})
    timings = manifest.get("timings") or {}
    return RunResult(
        run_id=run_id,
        folder=folder,
        rewards=tuple(_read_trace(name, term) for name, term in rewards.items() if _is_trace(term)),
        guards={name: _number(value) for name, value in guards.items()},
        kind=str(manifest.get("kind") or ""),
        prompt=str(manifest.get("prompt") or ""),
        seed=manifest.get("seed"),
        preset=str(manifest.get("preset") or ""),
        source=str(manifest.get("source") or ""),
        notes=tuple(str(note) for note in manifest.get("notes") or ()),
        size=_size(manifest),
        seconds=sum(_number(value) or 0.0 for phase, value in timings.items() if phase != "load") or None,
        reward_guidance=_read_guidance(manifest.get("reward_guidance")),
    )


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises ``UnreadableRun`` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnreadableRun(f"{path.name} is missing from the run folder") from error
    except json.JSONDecodeError as error:
        raise UnreadableRun(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableRun(f"{path.name} must hold one JSON object")
    return content


def _is_trace(term: object) -> bool:
    return isinstance(term, dict) and "per_frame" in term


def _read_trace(name: str, term: dict) -> RewardTrace:
    """One reward in the contract's form; null becomes None or NaN."""
    per_frame = [np.nan if value is None else float(value) for value in term["per_frame"]]
    return RewardTrace(
        name=name,
        value=_number(term.get("value")),
        per_frame=np.array(per_frame, dtype=np.float64),
        reason=term.get("reason"),
        worst_frames=tuple(int(frame) for frame in term.get("worst_frames") or () if 0 <= frame < len(per_frame)),
    )


def _read_guidance(entry: object) -> GuidanceResult | None:
    """The manifest's entry; None where rewards did not guide, or where an older run does not say."""
    if not isinstance(entry, dict):
        return None
    before, after, seconds = (
        {str(name): _number(value) for name, value in (entry.get(key) or {}).items()}
        for key in ("before", "after", "seconds")
    )
    return GuidanceResult(
        scale=_number(entry.get("scale")) or 0.0,
        every=int(_number(entry.get("every")) or 1),
        before=before,
        after=after,
        guided_steps=int(_number(entry.get("guided_steps")) or 0),
        skipped_steps=int(_number(entry.get("skipped_steps")) or 0),
        seconds=seconds,
    )


def _size(manifest: dict) -> tuple[int, int] | None:
    height, width = manifest.get("height"), manifest.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _number(value: object) -> float | None:
    """A float, or None for null; a guard may also be an object with a ``value``."""
    if isinstance(value, dict):
        value = value.get("value")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
