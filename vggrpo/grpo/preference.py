"""Which videos of a group are preferred to which: the pairs that ``flow_dpo`` learns from.

Videos are ordered by one score, or by several as the advantage weighs them. A video that stands still is consistent
with itself, so a pair must not prefer stillness: the winner has to move at least ``floor`` times as much as the loser,
less the ``SWAY`` of a hand-held camera, which is no loss. (The papers drop still videos before they pair them,
[VideoGPA], or take a penalty off their score, [Epipolar-DPO]; both look at the video alone.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

SWAY = 0.02
"""Apparent motion that a hand-held camera makes in half a clip, as a fraction of the image's shorter side: measured on
clips of the procedural world whose camera stands but for its jitter (0.015 to 0.035)."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What a judge of preference says of some videos.

    ``scores`` by name, higher is better, NaN where a video cannot be judged. ``motion`` is the apparent motion over
    half a clip as a fraction of the image's shorter side, or None where nobody asked. Of a batch [B], or by groups
    [P, K].
    """

    scores: Mapping[str, Float[Tensor, "*videos"]]
    motion: Float[Tensor, "*videos"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two members of a group."""

    winner: int
    loser: int


def choose_pairs(
    order: Float[Tensor, " K"], *, motion: Float[Tensor, " K"] | None, count: int, floor: float
) -> tuple[Pair, ...]:
    """Up to ``count`` pairs of different members, those that are furthest apart in ``order`` (higher is better) first.

    Members whose ``order`` is NaN are in no pair, nor are two members of equal order. ``floor`` 0 asks for no motion.
    """
    values = order.tolist()
    pairs: list[Pair] = []
    candidates = [
        Pair(winner=winner, loser=loser)
        for winner in range(len(values))
        for loser in range(len(values))
        # A comparison with NaN is false.
        if values[winner] > values[loser] and _moves_enough(motion, winner=winner, loser=loser, floor=floor)
    ]
    for pair in sorted(candidates, key=lambda pair: values[pair.loser] - values[pair.winner]):
        taken = {member for known in pairs for member in (known.winner, known.loser)}
        if len(pairs) < count and not taken & {pair.winner, pair.loser}:
            pairs.append(pair)
    return tuple(pairs)


def _moves_enough(motion: Float[Tensor, " K"] | None, *, winner: int, loser: int, floor: float) -> bool:
    if floor == 0.0:
        return True
    if motion is None:
        raise ValueError("a floor of motion needs the videos' motion")
    return bool(motion[winner] >= floor * motion[loser] - SWAY)
