"""The rows of the report, and their form in a result file."""

from collections.abc import Mapping
from dataclasses import dataclass

from vggrpo.evaluation.contest.goals import Verdict
from vggrpo.evaluation.contest.question import Group
from vggrpo.evaluation.contest.statistics import Comparison
from vggrpo.evaluation.estimates import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measure of one contestant over one group of clips. ``comparison`` with base is None for base itself and for
    true clips; ``seen`` says that its training looked at this measure."""

    contestant: str
    measure: str
    group: Group
    mean: Estimate
    judged: int
    of: int
    reasons: Mapping[str, int]
    comparison: Comparison | None = None
    goal: Verdict | None = None
    seen: bool = False

    def to_json(self) -> dict[str, object]:
        """For a result file."""
        return {
            "contestant": self.contestant,
            "measure": self.measure,
            "clips": self.group,
            "mean": self.mean.to_json(),
            **_comparison_json(self.comparison),
            "judged": self.judged,
            "of": self.of,
            "reasons": dict(self.reasons),
            "goal": None if self.goal is None else self.goal.to_json(),
            "seen_in_training": self.seen,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """A contestant against a rival; ``goal`` where it is meant to be ahead."""

    contestant: str
    rival: str
    measure: str
    group: Group
    comparison: Comparison
    goal: Verdict | None

    def to_json(self) -> dict[str, object]:
        """For a result file."""
        return {
            "contestant": self.contestant,
            "rival": self.rival,
            "measure": self.measure,
            "clips": self.group,
            **_comparison_json(self.comparison),
            "goal": None if self.goal is None else self.goal.to_json(),
        }


def _comparison_json(comparison: Comparison | None) -> dict[str, object]:
    names = ("difference", "relative", "win_rate")
    if comparison is None:
        return dict.fromkeys(names)
    found = {name: getattr(comparison, name) for name in names}
    return {name: None if one is None else one.to_json() for name, one in found.items()}
