"""Recorded results as the page reads them: the numbers behind each figure of About, frozen, with what made them.

``python -m vggrpo … --record`` writes the files; here they are only read. A file that is not there gives None, one that
cannot be understood raises ``UnreadableResult``: the page then says which command makes it, and shows nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FORMAT = 1
"""The result files that are understood, see ``vggrpo.evaluation.results``."""

Better = Literal["lower", "higher", "guard"]
BASE, TRUE_CLIPS = "base", "true"
"""Contestants that have means only: what all others are compared with, and videos of the exact world."""


class UnreadableResult(ValueError):
    """A result file of another format, or damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What made the numbers: enough to make them again."""

    path: Path
    command: str
    date: str
    seconds: float
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A measured number with its 95 % interval; None where there is none, and ``reason`` then says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero; False where there is none."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One side of the comparison."""

    name: str
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestMeasure:
    """What is compared. ``family``: judges that training never saw, guards, or what training optimised."""

    name: str
    title: str
    unit: str
    better: Better
    family: Literal["independent", "guard", "own"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalVerdict:
    """A goal in words; ``met`` is None where it could not be measured, ``certain`` False where chance may decide."""

    text: str
    met: bool | None
    certain: bool | None

    @property
    def in_words(self) -> str:
        """Whether it was reached."""
        if self.met is None:
            return "not measured"
        word = "reached" if self.met else "not reached"
        return f"{word}, within chance" if self.certain is False else word


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestRow:
    """One contestant by one measure over some clips.

    ``difference`` is contestant − base, ``relative`` that over |base|, paired; ``mean`` is the contestant's own.
    """

    contestant: str
    measure: str
    clips: str
    mean: Number
    difference: Number | None
    relative: Number | None
    win_rate: Number | None
    judged: int
    asked: int
    reasons: Mapping[str, int]
    goal: GoalVerdict | None
    seen_in_training: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DuelGoal:
    """Whether the champion is ahead of a rival by a measure, over all clips."""

    rival: str
    measure: str
    goal: GoalVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Every contestant against the base model. ``champion`` names the one under test, where it takes part."""

    source: Source
    champion: str | None
    contestants: tuple[Contestant, ...]
    measures: tuple[ContestMeasure, ...]
    rows: tuple[ContestRow, ...]
    duels: tuple[DuelGoal, ...]
    remarks: tuple[str, ...]

    def row(self, contestant: str, *, measure: str, clips: str) -> ContestRow | None:
        """The row of a contestant, where there is one."""
        wanted = (contestant, measure, clips)
        return next((row for row in self.rows if (row.contestant, row.measure, row.clips) == wanted), None)

    def title_of(self, name: str | None) -> str:
        """What people call a contestant; nothing for nobody."""
        return next((one.title for one in self.contestants if one.name == name), name or "")

    @property
    def clips(self) -> tuple[str, ...]:
        """Which clips there are rows for: all, static, dynamic."""
        return tuple(dict.fromkeys(row.clips for row in self.rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustnessLevel:
    """Mean pose errors in degrees at one noise level: by Φ_g from latents, by Φ from the decoded video.

    ``advantage`` is the second − the first over the same clips.
    """

    noise: float
    latent: Number
    decoded: Number
    advantage: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """Curves over noise by (against "truth" or "clean", measure); ``yardsticks`` by measure."""

    source: Source
    clips: int
    curves: Mapping[tuple[str, str], tuple[RobustnessLevel, ...]]
    yardsticks: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteCost:
    """What one way to the rewards costs for all videos together; memory in MiB."""

    phases: Mapping[str, float]
    seconds: float
    processor_seconds: float
    weights_mb: float
    tensors_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Rewards of the same latents by both ways."""

    source: Source
    videos: int
    latent: RouteCost
    rgb: RouteCost


def read_contest(path: Path) -> Contest | None:
    """``evaluate adapters --record``. Raises ``UnreadableResult``."""
    return _understood(path, kind="contest", read=_contest)


def read_robustness(path: Path) -> Robustness | None:
    """``evaluate robustness --record``. Raises ``UnreadableResult``."""
    return _understood(path, kind="robustness", read=_robustness)


def read_cost(path: Path) -> Cost | None:
    """``bench reward --record``. Raises ``UnreadableResult``."""
    return _understood(path, kind="cost", read=_cost)


def _understood(path: Path, *, kind: str, read: Any) -> Any:
    """None where there is no file; ``UnreadableResult`` for everything that is not as it is written today."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnreadableResult(f"{path.name}: {error}") from error
    try:
        if (content["format"], content["kind"]) != (FORMAT, kind):
            raise UnreadableResult(f"{path.name} is of another kind or format")
        source = Source(
            path=path,
            command=str(content["command"]),
            date=str(content["date"]),
            seconds=float(content["seconds"]),
            device=str(content["device"]),
            versions=dict(content["versions"]),
        )
        return read(content["result"], source)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableResult(f"{path.name}: {error!r}") from error


def _contest(content: Mapping[str, Any], source: Source) -> Contest:
    return Contest(
        source=source,
        champion=content["champion"],
        contestants=tuple(Contestant(name=str(one["name"]), title=str(one["title"])) for one in content["contestants"]),
        measures=tuple(
            ContestMeasure(
                name=str(one["name"]),
                title=str(one["title"]),
                unit=str(one["unit"]),
                better=one["better"],
                family=one["family"],
            )
            for one in content["measures"]
        ),
        rows=tuple(_contest_row(row) for row in content["rows"]),
        duels=tuple(
            DuelGoal(rival=str(duel["rival"]), measure=str(duel["measure"]), goal=_goal(duel["goal"]))
            for duel in content["duels"]
            if duel["goal"] is not None and duel["clips"] == content["rows"][0]["clips"]
        ),
        remarks=tuple(str(remark) for remark in content.get("remarks", ())),
    )


def _contest_row(row: Mapping[str, Any]) -> ContestRow:
    goal = row["goal"]
    return ContestRow(
        contestant=str(row["contestant"]),
        measure=str(row["measure"]),
        clips=str(row["clips"]),
        mean=_number(row["mean"]),
        difference=_optional_number(row["difference"]),
        relative=_optional_number(row["relative"]),
        win_rate=_optional_number(row["win_rate"]),
        judged=int(row["judged"]),
        asked=int(row["of"]),
        reasons={str(reason): int(count) for reason, count in row["reasons"].items()},
        goal=None if goal is None else _goal(goal),
        seen_in_training=bool(row["seen_in_training"]),
    )


def _goal(found: Mapping[str, Any]) -> GoalVerdict:
    return GoalVerdict(text=str(found["text"]), met=found["met"], certain=found["certain"])


def _robustness(content: Mapping[str, Any], source: Source) -> Robustness:
    means = {
        (row["reader"], row["against"], row["measure"], row["level"]): _number(row["estimate"])
        for row in content["rows"]
    }
    advantages = {
        (row["against"], row["measure"], row["level"]): _number(row["estimate"]) for row in content["advantage"]
    }
    kinds = dict.fromkeys((against, measure) for against, measure, _ in advantages)
    curves = {
        (against, measure): tuple(
            RobustnessLevel(
                noise=float(level),
                latent=means["latent", against, measure, level],
                decoded=means["decoded", against, measure, level],
                advantage=advantages[against, measure, level],
            )
            for level in content["levels"]
        )
        for against, measure in kinds
    }
    yardsticks = {
        str(name): _number(found).value if isinstance(found, Mapping) else float(found)
        for name, found in content["yardsticks"].items()
    }
    return Robustness(source=source, clips=int(content["clips"]), curves=curves, yardsticks=yardsticks)


def _cost(content: Mapping[str, Any], source: Source) -> Cost:
    routes = {
        name: RouteCost(
            phases={str(phase): float(seconds) for phase, seconds in content[name]["phases"].items()},
            seconds=float(content[name]["seconds"]),
            processor_seconds=float(content[name]["processor_seconds"]),
            weights_mb=float(content[name]["weights_mb"]),
            tensors_mb=float(content[name]["tensors_mb"]),
        )
        for name in ("latent", "rgb")
    }
    return Cost(source=source, videos=int(content["videos"]), latent=routes["latent"], rgb=routes["rgb"])


def _number(found: Mapping[str, Any]) -> Number:
    return Number(
        value=_optional(found["value"]),
        low=_optional(found["low"]),
        high=_optional(found["high"]),
        n=int(found["n"]),
        reason=found.get("reason"),
    )


def _optional_number(found: Mapping[str, Any] | None) -> Number | None:
    return None if found is None else _number(found)


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)
