"""How long a fine-tune will take and how much memory: measured before, scaled by what is asked, and said with care.

Time grows in line with the number of videos, so what was measured is reduced to seconds a video, plus what an
iteration costs however many videos it draws. The newest fine-tune of the same preset on this very server is the
best witness; without one, the numbers that ship with the page are, and the text says on what machine they were taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from demo.training_runs import History

PER_VIDEO_PHASES = ("time/rollout", "time/guard", "time/reward", "time/update")
"""What an iteration spends in line with the number of its videos."""
OTHER_PHASES = ("time/evaluate", "time/samples")
"""What it spends on held-out prompts and sample videos, however many videos it draws."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one fine-tune cost. ``where`` completes the sentence "measured …"."""

    seconds_per_video: float
    """Seconds that an iteration takes for each video that it draws."""
    seconds_other: float
    """Seconds an iteration beside that, on average."""
    memory_mb: float | None
    where: str


SHIPPED: Mapping[str, Cost] = MappingProxyType(
    {
        "tiny": Cost(
            seconds_per_video=1.5,
            seconds_other=0.0,
            memory_mb=1604.0,
            where="on one core of an AMD EPYC, evaluations left out",
        )
    }
)
"""Measured by the project, by preset: `OMP_NUM_THREADS=1 python -m vggrpo bench train --preset tiny`, 2026-11-30."""


def cost_of(history: History, *, videos: int, where: str) -> Cost | None:
    """What a run's metrics say it cost, or None before its first iteration; ``videos`` is what each drew."""
    trained = int(np.sum(~np.isnan(history.get("time/rollout"))))
    per_video = _seconds(history, PER_VIDEO_PHASES)
    if not trained or per_video <= 0.0 or videos < 1:
        return None
    return Cost(
        seconds_per_video=per_video / trained / videos,
        seconds_other=_seconds(history, OTHER_PHASES) / trained,
        memory_mb=history.last("memory/peak_mb"),
        where=where,
    )


def estimate_text(cost: Cost | None, *, iterations: int, videos: int, ahead: int) -> str:
    """One or two plain sentences for the visitor; ``ahead`` other fine-tunes run or wait before this one."""
    queue = "" if ahead == 0 else f" It waits for {ahead} other{'' if ahead == 1 else 's'} first."
    if cost is None:
        return (
            "How long this takes is not known yet: nothing of this preset was trained here before. The first "
            f"iterations will tell.{queue}"
        )
    each = cost.seconds_per_video * videos + cost.seconds_other
    memory = "" if cost.memory_mb is None else f", and about {memory_text(cost.memory_mb)} of memory"
    total = f"About {duration_text(each * iterations)} ({iterations} × {duration_text(each)}){memory}"
    return f"{total}: scaled from what was measured {cost.where}.{queue}"


def duration_text(seconds: float) -> str:
    """A duration as people say it: two digits are as good as an estimate gets."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{_two_digits(seconds)} s"
    if seconds < 90 * 60:
        return f"{_two_digits(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{_two_digits(seconds / 3600)} h"
    return f"{_two_digits(seconds / 86400)} days"


def memory_text(megabytes: float) -> str:
    """Memory in MB or GB."""
    return f"{_two_digits(megabytes)} MB" if megabytes < 950 else f"{_two_digits(megabytes / 1000)} GB"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _seconds(history: History, names: tuple[str, ...]) -> float:
    """All seconds that a run spent in some phases; a phase that an iteration skipped took no time in it."""
    return float(sum(np.nansum(history.get(name)) for name in names))
