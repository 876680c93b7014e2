"""Sampson epipolar error: do the points of two frames obey ONE rigid camera motion? No model is asked.

SIFT features of two upscaled frames are matched (ratio test, and each other's best), a fundamental matrix F is fitted
by least median of squares, and each match x₁ ↔ x₂ has the first-order distance to the epipolar constraint x₂ᵀ F x₁ = 0

    d² = (x₂ᵀ F x₁)² / ((F x₁)₁² + (F x₁)₂² + (Fᵀ x₂)₁² + (Fᵀ x₂)₂²)          (Hartley & Zisserman, eq. 11.9)

in pixels of the video. A pair's error is the mean over all matches but the worst tenth: the inliers of a robust fit
would let a warped frame hide behind its outliers, and on a floor that repeats itself a few matches are wrong anyway.
What is left on true static clips is the precision of SIFT, about 0.1 pixels. Points on moving objects break the
constraint rightly: compare static scenes, or the same scenes. A pair with too few matches is a failure: it is counted
and has no number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from vggrpo.runtime.errors import UserError

GAP = 1
"""Frames between the two of a pair. More would constrain F better, but find half the matches (measured)."""
UPSCALED_SIDE = 384
"""SIFT finds little in small frames: their shorter side is brought to this many pixels first."""
RATIO = 0.75
"""Lowe's: the best match must be nearer than this times the second best."""
FEWEST_MATCHES = 16
"""F needs eight; twice that, so that the error is of more than the fit."""
KEPT = 0.9
"""Share of the matches that count, from the best."""
CAP = 2.0
"""Largest distance that a match can count, in pixels of the video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampsonError:
    """Mean error in pixels over the judged pairs of frames; NaN with a ``reason`` where none could be judged.

    ``per_pair`` holds NaN for each of the ``failures``; ``matches`` is the mean number of matches of a judged pair.
    """

    value: float
    per_pair: tuple[float, ...]
    failures: int
    matches: float
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Image coordinates of matched points of two frames."""

    first: Float[np.ndarray, "m 2"]
    second: Float[np.ndarray, "m 2"]


def sampson_error(frames: UInt8[np.ndarray, "N H W 3"], *, gap: int = GAP) -> SampsonError:
    """The error of a clip over all pairs of frames ``gap`` apart."""
    pairs = [(index, index + gap) for index in range(len(frames) - gap)]
    if not pairs:
        reason = f"{len(frames)} frames hold no pair that is {gap} frames apart"
        return SampsonError(value=math.nan, per_pair=(), failures=0, matches=math.nan, reason=reason)
    features = _Features(frames)
    errors, counts = [], []
    for first, second in pairs:
        matches = features.match(first, second)
        distances = _distances(matches)
        errors.append(math.nan if distances is None else _trimmed_mean(distances / features.scale))
        if distances is not None:
            counts.append(len(distances))
    judged = [error for error in errors if math.isfinite(error)]
    return SampsonError(
        value=float(np.mean(judged)) if judged else math.nan,
        per_pair=tuple(errors),
        failures=len(errors) - len(judged),
        matches=float(np.mean(counts)) if counts else math.nan,
        reason=None if judged else f"none of {len(pairs)} pairs of frames had {FEWEST_MATCHES} matches",
    )


def sampson_distances(fundamental: Float[np.ndarray, "3 3"], *, matches: Matches) -> Float[np.ndarray, " m"]:
    """d of every match, in the unit of its coordinates."""
    first, second = (np.column_stack([points, np.ones(len(points))]) for points in (matches.first, matches.second))
    lines_second, lines_first = first @ fundamental.T, second @ fundamental
    algebraic = (second * lines_second).sum(axis=1)
    gradient = np.square(lines_second[:, :2]).sum(axis=1) + np.square(lines_first[:, :2]).sum(axis=1)
    return np.abs(algebraic) / np.sqrt(np.maximum(gradient, 1e-30))


def _trimmed_mean(distances: Float[np.ndarray, " m"]) -> float:
    """The mean of the best ``KEPT``, each at most ``CAP``."""
    kept = np.sort(distances)[: math.ceil(KEPT * len(distances))]
    return float(np.minimum(kept, CAP).mean())


def _distances(matches: Matches) -> Float[np.ndarray, " m"] | None:
    """Distances to the fitted F; None where there is nothing to fit."""
    cv2 = import_opencv()
    if len(matches.first) < FEWEST_MATCHES:
        return None
    # A fixed seed: the same clip always has the same error.
    cv2.setRNGSeed(0)
    try:
        fundamental, _ = cv2.findFundamentalMat(matches.first, matches.second, cv2.FM_LMEDS)
    except cv2.error:
        # OpenCV's word for points that leave F open, all in one place for example.
        return None
    if fundamental is None or fundamental.shape != (3, 3):
        return None
    return sampson_distances(fundamental, matches=matches)


class _Features:
    """SIFT features of every frame, found once."""

    def __init__(self, frames: UInt8[np.ndarray, "N H W 3"]) -> None:
        self._cv2 = import_opencv()
        self.scale = max(1.0, UPSCALED_SIDE / min(frames.shape[1:3]))
        # Small frames hold faint, small features: the usual contrast threshold would drop most of them.
        sift = self._cv2.SIFT_create(contrastThreshold=0.02)
        self._matcher = self._cv2.BFMatcher(self._cv2.NORM_L2)
        self._found = [sift.detectAndCompute(self._upscaled(frame), None) for frame in frames]

    def match(self, first: int, second: int) -> Matches:
        """Matches of two frames that pass the ratio test and are each other's best."""
        there = self._best(first, second)
        back = self._best(second, first)
        pairs = [(a, b) for a, b in there.items() if back.get(b) == a]
        return Matches(
            first=self._places(first, [a for a, _ in pairs]), second=self._places(second, [b for _, b in pairs])
        )

    def _best(self, query: int, target: int) -> dict[int, int]:
        wanted, offered = self._found[query][1], self._found[target][1]
        if wanted is None or offered is None or len(offered) < 2:
            return {}
        candidates = self._matcher.knnMatch(wanted, offered, k=2)
        return {best.queryIdx: best.trainIdx for best, next_ in candidates if best.distance < RATIO * next_.distance}

    def _places(self, frame: int, indices: Sequence[int]) -> Float[np.ndarray, "m 2"]:
        points = self._found[frame][0]
        return np.array([points[index].pt for index in indices], dtype=np.float64).reshape(-1, 2)

    def _upscaled(self, frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
        cv2 = self._cv2
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if self.scale == 1.0:
            return grey
        return cv2.resize(grey, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_CUBIC)


def import_opencv():  # noqa: ANN201 - a module
    """OpenCV, imported only when a video is judged. Raises a UserError that names the missing library."""
    try:
        import cv2
    except ImportError as error:
        message = f"OpenCV cannot be loaded ({error}): run `pip install -r requirements.txt`."
        raise UserError(message) from error
    return cv2
