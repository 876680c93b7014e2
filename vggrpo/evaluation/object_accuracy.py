"""How well the judge of objects reads world clips, where the masks say what is to be seen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vggrpo.evaluation.object_judge import VISIBLE_SHARE, kinds_seen
from vggrpo.evaluation.subjects import ObjectCounter
from vggrpo.worlds.rendering import FIRST_OBJECT_ID
from vggrpo.worlds.scenes import sample_scene

Kind = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipReading:
    """What a judge saw in one world clip, against what is there: sets of (colour, shape)."""

    seen: frozenset[Kind]
    visible: frozenset[Kind]

    @property
    def found(self) -> list[bool]:
        """For each visible object whether it was seen."""
        return [kind in self.seen for kind in sorted(self.visible)]

    @property
    def right(self) -> list[bool]:
        """For each object that was seen whether it is there."""
        return [kind in self.visible for kind in sorted(self.seen)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectAccuracy:
    """``recall``: share of the visible objects that were seen in the right colour and shape; ``precision``: share of
    those seen that are visible. None without any object."""

    recall: float | None
    precision: float | None
    objects: int
    clips: int


def true_visible_pixels(object_id: UInt8[np.ndarray, "N H W"], *, seed: int) -> dict[Kind, Bool[np.ndarray, "N H W"]]:
    """The exact mask of each object of the world clip ``seed``, by its colour and shape.

    Objects of one scene differ in colour, so no two share a key.
    """
    objects = sample_scene(seed).objects
    return {
        (item.words.colour, item.words.shape): object_id == FIRST_OBJECT_ID + index
        for index, item in enumerate(objects)
    }


def read_clip(
    judge: ObjectCounter, video: Float[Tensor, "N 3 H W"], *, object_id: UInt8[np.ndarray, "N H W"], seed: int
) -> ClipReading:
    """Judge a world clip, given as images in [0, 1], and look up what it shows."""
    frame_pixels = video.shape[-1] * video.shape[-2]
    masks = true_visible_pixels(object_id, seed=seed)
    visible = {kind for kind, mask in masks.items() if mask.mean() >= VISIBLE_SHARE}
    seen = kinds_seen(judge.visible_pixels(video), frame_pixels=frame_pixels)
    return ClipReading(seen=frozenset(seen), visible=frozenset(visible))


def object_accuracy(
    judge: ObjectCounter, clips: Iterable[tuple[int, Float[Tensor, "N 3 H W"], UInt8[np.ndarray, "N H W"]]]
) -> ObjectAccuracy:
    """Recall and precision over world clips, each as (seed, video in [0, 1], object ids)."""
    return summarise([read_clip(judge, video, object_id=ids, seed=seed) for seed, video, ids in clips])


def summarise(readings: Sequence[ClipReading]) -> ObjectAccuracy:
    """Recall and precision over all objects of all clips."""
    found = [hit for reading in readings for hit in reading.found]
    right = [hit for reading in readings for hit in reading.right]
    return ObjectAccuracy(
        recall=float(np.mean(found)) if found else None,
        precision=float(np.mean(right)) if right else None,
        objects=len(found),
        clips=len(readings),
    )
