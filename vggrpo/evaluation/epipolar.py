"""Sampson epipolar error: do the points of two frames obey ONE rigid camera motion? No model is asked.

SIFT features of two upscaled frames are matched (ratio test, and each other's best), and each match is placed to a
fraction of a pixel by following its patch there and back (Lucas-Kanade): at 128 pixels a side SIFT's own places are
coarser than the errors that matter. A fundamental matrix F is fitted, and each match x₁ ↔ x₂ has the first-order
distance to the epipolar constraint x₂ᵀ F x₁ = 0

    d² = (x₂ᵀ F x₁)² / ((F x₁)₁² + (F x₁)₂² + (Fᵀ x₂)₁² + (Fᵀ x₂)₂²)          (Hartley & Zisserman, eq. 11.9)

in pixels of the video. A pair's error is the mean over all matches but the worst tenth, which on a floor that repeats
itself may be wrong; F is the one of normalised eight points that fits the same share best (least trimmed squares). A
fit that could leave out more would let a warped frame hide behind its outliers. Points on moving objects break the
constraint rightly: compare static scenes, or the same scenes. A pair with too few matches is a failure: it is counted
and has no number.

Measured on eight static scenes of the world that were not used to choose the settings: 0.04 pixels on true clips; one
frame bent by waves of half a pixel, one pixel and two pixels raises its pairs' error 4.6, 9 and 13 times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vggrpo.runtime.errors import UserError

GAP = 1
"""Frames between the two of a pair. More would constrain F better, but find half the matches (measured)."""
UPSCALED_SIDE = 384
"""SIFT finds little in small frames: their shorter side is brought to this many pixels first."""
CONTRAST = 0.005
"""SIFT's own threshold, 0.04, would drop most of what a small frame shows."""
MOST_FEATURES = 2000
"""The strongest of a frame: rendered worlds have some hundreds, and noise would have tens of thousands."""
RATIO = 0.8
"""Lowe's: the best match must be nearer than this times the second best."""
PATCH = 31
"""Side of the patches whose shift places a match, in pixels of the upscaled frame."""
HOME = 0.5
"""A patch that was followed there and back must come home to within so many pixels of the upscaled frame."""
FEWEST_MATCHES = 16
"""F needs eight; twice that, so that the error is of more than the fit."""
REFITS = 4
"""Least trimmed squares settles within a few rounds."""
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


def fundamental_matrix(matches: Matches) -> Float[np.ndarray, "3 3"]:
    """The normalised eight-point algorithm (Hartley 1997): least squares over all matches, then rank two.

    Where the matches leave F open (a camera that only turns, a plane, a frozen picture) it is one of those that fit.
    """
    first, to_first = _normalised(matches.first)
    second, to_second = _normalised(matches.second)
    equations = (second[:, :, None] * first[:, None, :]).reshape(-1, 9)
    fundamental = np.linalg.svd(equations, full_matrices=len(equations) < 9)[2][-1].reshape(3, 3)
    left, values, right = np.linalg.svd(fundamental)
    return to_second.T @ (left * [values[0], values[1], 0.0]) @ right @ to_first


def _normalised(points: Float[np.ndarray, "m 2"]) -> tuple[Float[np.ndarray, "m 3"], Float[np.ndarray, "3 3"]]:
    """Homogeneous points around the origin at a mean distance of √2, and the map that put them there."""
    middle = points.mean(axis=0)
    spread = np.linalg.norm(points - middle, axis=1).mean()
    scale = math.sqrt(2.0) / max(spread, 1e-9)
    transform = np.array([[scale, 0.0, -scale * middle[0]], [0.0, scale, -scale * middle[1]], [0.0, 0.0, 1.0]])
    return np.column_stack([points, np.ones(len(points))]) @ transform.T, transform


def _distances(matches: Matches) -> Float[np.ndarray, " m"] | None:
    """Distances to F by least trimmed squares; None where there is too little to fit."""
    count = len(matches.first)
    if count < FEWEST_MATCHES:
        return None
    distances = sampson_distances(fundamental_matrix(matches), matches=matches)
    for _ in range(REFITS):
        kept = np.argsort(distances, kind="stable")[: math.ceil(KEPT * count)]
        best = Matches(first=matches.first[kept], second=matches.second[kept])
        distances = sampson_distances(fundamental_matrix(best), matches=matches)
    return distances


class _Features:
    """SIFT features of every frame, found once."""

    def __init__(self, frames: UInt8[np.ndarray, "N H W 3"]) -> None:
        self._cv2 = import_opencv()
        self.scale = max(1.0, UPSCALED_SIDE / min(frames.shape[1:3]))
        sift = self._cv2.SIFT_create(nfeatures=MOST_FEATURES, contrastThreshold=CONTRAST)
        self._matcher = self._cv2.BFMatcher(self._cv2.NORM_L2)
        self._images = [self._upscaled(frame) for frame in frames]
        self._found = [sift.detectAndCompute(image, None) for image in self._images]

    def match(self, first: int, second: int) -> Matches:
        """Matches of two frames that pass the ratio test, are each other's best, and can be placed."""
        there = self._best(first, second)
        back = self._best(second, first)
        pairs = [(a, b) for a, b in there.items() if back.get(b) == a]
        rough = Matches(
            first=self._places(first, [a for a, _ in pairs]), second=self._places(second, [b for _, b in pairs])
        )
        return self._placed(rough, images=(self._images[first], self._images[second])) if pairs else rough

    def _placed(self, rough: Matches, *, images: tuple[np.ndarray, np.ndarray]) -> Matches:
        """The matches whose patches are followed there and back, placed where they are followed to."""
        start, end = (points.astype(np.float32)[:, None] for points in (rough.first, rough.second))
        there, seen = self._follow(images, start=start, guess=end)
        back, seen_back = self._follow(images[::-1], start=there, guess=start)
        home = np.linalg.norm(back - start, axis=2)[:, 0] < HOME
        kept = seen & seen_back & home
        return Matches(first=rough.first[kept], second=there[kept, 0].astype(np.float64))

    def _follow(
        self,
        images: tuple[np.ndarray, np.ndarray],
        *,
        start: Float[np.ndarray, "m 1 2"],
        guess: Float[np.ndarray, "m 1 2"],
    ) -> tuple[Float[np.ndarray, "m 1 2"], Bool[np.ndarray, " m"]]:
        """Lucas-Kanade on one level, from a guess: the places in the second image, and whether they were found."""
        places, found, _ = self._cv2.calcOpticalFlowPyrLK(
            *images,
            start,
            guess.copy(),
            winSize=(PATCH, PATCH),
            maxLevel=0,
            flags=self._cv2.OPTFLOW_USE_INITIAL_FLOW,
            criteria=(self._cv2.TERM_CRITERIA_EPS | self._cv2.TERM_CRITERIA_COUNT, 30, 0.001),
        )
        return places, found[:, 0] > 0

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
