"""Pairs and comparisons as the page sees them: frozen views of their files. No torch, no models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.results import RunResult, UnreadableRun, read_json, read_run

PAIR = "pair.json"
COMPARISON = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class SideRun:
    """One side of a pair: its run and what people call it."""

    run: RunResult
    label: str


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """Two runs of one prompt and seed."""

    pair_id: str
    folder: Path
    base: SideRun
    tuned: SideRun

    @property
    def prompt(self) -> str:
        """The prompt that both share."""
        return self.base.run.prompt

    @property
    def seed(self) -> int | None:
        """The seed that both share."""
        return self.base.run.seed

    @property
    def num_frames(self) -> int:
        """N."""
        return max(self.base.run.num_frames, self.tuned.run.num_frames)


@dataclass(frozen=True, kw_only=True)
class PairedReward:
    """A reward (or guard) of n prompts on both sides, float64 [n] with NaN where it could not be judged.

    ``mean`` of tuned − base lies in [``low``, ``high``] with 95 %; None with a ``reason`` where too few were judged.
    """

    name: str
    base: NDArray[np.float64]
    tuned: NDArray[np.float64]
    judged: int
    left_out: int
    mean: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """Many prompts on both sides. ``asked`` prompts were wanted; fewer are here while the job runs."""

    comparison_id: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    base_label: str
    tuned_label: str
    rewards: tuple[PairedReward, ...]
    guards: tuple[PairedReward, ...]
    asked: int

    @property
    def is_complete(self) -> bool:
        """Whether every prompt is here."""
        return len(self.prompts) == self.asked


def read_pair(folder: Path, *, pair_id: str) -> PairResult:
    """Read a pair. Raises ``UnreadableRun``."""
    content = read_json(folder / PAIR)

    def side(name: str) -> SideRun:
        run = read_run(folder / name, run_id=f"{pair_id}.{name}")
        described = content.get(name)
        label = described.get("label") if isinstance(described, dict) else None
        return SideRun(run=run, label=str(label or name.capitalize()))

    return PairResult(pair_id=pair_id, folder=folder, base=side("base"), tuned=side("tuned"))


def read_comparison(content: Mapping[str, object], *, comparison_id: str) -> ComparisonResult:
    """The content of a ``comparison.json``. Raises ``UnreadableRun`` for one that another program wrote."""
    try:
        return _read_comparison(dict(content), comparison_id=comparison_id)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableRun(f"{COMPARISON} is not in the form that compare writes") from error


def _read_comparison(content: dict, *, comparison_id: str) -> ComparisonResult:
    sides = content["sides"]
    return ComparisonResult(
        comparison_id=comparison_id,
        prompts=tuple(str(prompt) for prompt in content["prompts"]),
        seeds=tuple(int(seed) for seed in content["seeds"]),
        base_label=str(sides["base"]["label"]),
        tuned_label=str(sides["tuned"]["label"]),
        rewards=_read_rewards(content),
        guards=_read_rewards(content["guards"]),
        asked=int(content.get("asked") or len(content["prompts"])),
    )


def _read_rewards(content: dict) -> tuple[PairedReward, ...]:
    """Every reward that was paired."""
    return tuple(
        PairedReward(
            name=name,
            base=_numbers(content["base"][name]),
            tuned=_numbers(content["tuned"][name]),
            judged=int(found["n"]),
            left_out=int(found["left_out"]),
            mean=_optional(found["mean"]),
            low=_optional(found["low"]),
            high=_optional(found["high"]),
            reason=str(found.get("reason") or ""),
        )
        for name, found in content["paired"].items()
    )


def _optional(value: float | None) -> float | None:
    """None for null and for NaN, which only files cannot hold."""
    return None if value is None or np.isnan(value) else float(value)


def _numbers(values: list) -> NDArray[np.float64]:
    """float64 with NaN for null."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
