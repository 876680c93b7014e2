"""What is measured of every contestant: by judges that training never saw, guards, and the rewards of training."""

from dataclasses import dataclass
from typing import Literal

from vggrpo.evaluation.contest.drive import OWN
from vggrpo.evaluation.contest.statistics import Direction
from vggrpo.evaluation.judges import FRECHET, MEASURES
from vggrpo.rewards import reward_names

Family = Literal["independent", "guard", "own"]
FAMILIES: dict[Family, str] = {
    "independent": "Judges that no training saw",
    "guard": "Guards: what a gain may not cost",
    "own": "What VGGRPO's training was rewarded for: no judge",
}

_PROMPT_MEASURES = frozenset({"camera_prompt", "object_prompt"})
"""Better is known, but they are here to see that nothing is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContestMeasure:
    """A measure in its place in the report. ``better`` is the way that counts as a win; for a guard that has no better
    way, having at least as much of it as base."""

    name: str
    title: str
    unit: str
    better: Direction
    family: Family
    has_better: bool
    about: str = ""

    @property
    def is_share(self) -> bool:
        """Whether differences are told in points."""
        return self.name in _PROMPT_MEASURES

    def to_json(self) -> dict[str, object]:
        """For a result file."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "better": self.better if self.has_better else "guard",
            "family": self.family,
            "trained_on": self.family == "own",
            "about": self.about,
        }


def contest_measures() -> tuple[ContestMeasure, ...]:
    """All of them, in the order of the report."""
    judged = [
        ContestMeasure(
            name=one.name,
            title=one.title,
            unit=one.unit,
            better="lower" if one.better == "lower" else "higher",
            family="guard" if one.better == "guard" or one.name in {*_PROMPT_MEASURES, FRECHET.name} else "independent",
            has_better=one.better != "guard",
            about=one.about,
        )
        for one in (*MEASURES, FRECHET)
    ]
    own = [
        ContestMeasure(
            name=f"{OWN}{name}",
            title=f"{name.replace('_', ' ')} by Φ_g",
            unit="",
            better="higher",
            family="own",
            has_better=True,
            about="The reward as training reads it, from latents.",
        )
        for name in reward_names()
    ]
    return (*sorted(judged, key=lambda one: one.family != "independent"), *own)
