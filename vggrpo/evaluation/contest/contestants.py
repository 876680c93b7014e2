"""Who takes part: the base model, adapters on it, the base model under guidance, or blurred; and true clips beside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.contest.question import Group, Kind, Take
from vggrpo.types import Latents

BASE, TRUE, GUIDANCE, BLURRED = "base", "true", "guidance", "blurred"
"""Names that mean something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A way to draw videos.

    ``about`` is what its videos are made with, as JSON: two contestants with the same draw the same videos.
    ``seen`` names the measures that its training looked at: they are no independent judges of it.
    ``objective`` is what it was trained by ("grpo", "sft", "dpo"), None if it was not or nobody knows; ``videos`` how
    many its training has drawn or read. ``blur`` is the standard deviation, in pixels, of a Gaussian blur of base's
    own videos, which such a contestant shows instead of drawing any: what is easier to keep consistent because it is
    softer, judges see there.
    """

    name: str
    title: str
    note: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    objective: str | None = None
    videos: int | None = None
    blur: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrueClips:
    """Held-out true clips in the order in which they are used: number i answers prompt i where it is a world's.

    The first ``judged`` are judged like a contestant's videos. The first ``reference`` are what the Fréchet distance is
    measured to; the others are held against those, to see what true clips themselves give.
    """

    film: Callable[[int], Float[Tensor, "1 3 N H W"]]
    """Clip i in [-1, 1]."""
    names: tuple[str, ...]
    """What tells a clip from others."""
    captions: tuple[str, ...]
    kinds: tuple[Kind | None, ...]
    """None for clips of which nobody knows it: they count in every group."""
    judged: int
    reference: int

    def takes(self) -> tuple[Take, ...]:
        """One of each clip."""
        return tuple(Take(prompt=number, repeat=0) for number in range(len(self.captions)))

    def takes_of(self, group: Group, *, reference: bool) -> tuple[Take, ...]:
        """The reference clips of a group, or the others."""
        chosen = range(self.reference) if reference else range(self.reference, len(self.captions))
        return tuple(Take(prompt=i, repeat=0) for i in chosen if group == "all" or self.kinds[i] in {None, group})


Draw = Callable[[Contestant, Sequence[Take]], Latents]
"""A contestant's videos of some takes, [B, C, T, h, w] in their order."""
