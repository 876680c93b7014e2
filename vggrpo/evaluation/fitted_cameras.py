"""Cameras fitted to what the frames show, on the depth of a geometry model: perspective-n-point along the clip.

The camera poses that a network reads out are its weakest output: too coarse to tell a shaking camera from a steady one
(measured on the embedded Φ). Its depth is far better. So each pixel of frame i is lifted to its depth and followed into
frame i + 1 by optical flow, and the motion of the camera is the one under which most of these points land where they
are seen:

    min over T in SE(3) of Σ ρ(‖π_{i+1}(T X_p) − (p + flow_i(p))‖),     X_p = depth_i(p) K_i⁻¹ p

by RANSAC over three-point samples and Levenberg–Marquardt on what agrees. Points on moving objects disagree and drop
out. Steps are chained from frame 0. A pair of frames that no single camera motion explains leaves the path unknown: the
clip then has no cameras, and says why.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vggrpo.evaluation.epipolar import import_opencv
from vggrpo.evaluation.optical_flow import FlowField

TOLERANCE = 0.5
"""A point agrees if it lands within this distance of where it is seen, in pixels of frames of 128 a side."""
POINTS = 2000
"""About so many points of a frame are followed, on a regular grid."""
FEWEST_POINTS = 60
"""A camera has six numbers; below this, a wrong one is too easily agreed on."""
LEAST_EXPLAINED = 0.1
"""Share of the points that must agree on one motion. True clips have 0.3 to 0.8 (measured)."""
LEAST_FOLLOWED = 0.3
"""Share of the points with depth that can be followed, mean over the pairs. Noise has 0.2: nothing moves in it, so a
camera that stands still would explain it well. True clips have 0.4 to 0.9 (measured)."""
_DRAWS = 200
_CONFIDENCE = 0.9999


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthView:
    """What is known of the frames before the cameras are: z-depth, intrinsics in pixels, and where depth is known."""

    depth: Float[np.ndarray, "N H W"]
    intrinsics: Float[np.ndarray, "N 3 3"]
    valid: Bool[np.ndarray, "N H W"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCameras:
    """``camera_from_world`` [N, 4, 4] in the depth's unit, world = camera of frame 0; None with a ``reason``.

    ``explained`` is the share of the followed points of each pair that agree with its motion.
    """

    camera_from_world: Float[np.ndarray, "N 4 4"] | None
    explained: tuple[float, ...]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """The motion of one pair, None if nothing can be said; the share that agrees, and the number of points."""

    motion: Float[np.ndarray, "4 4"] | None
    explained: float
    points: int


def fit_cameras(view: DepthView, *, flow: FlowField) -> FittedCameras:
    """The cameras of a clip; see the module's text."""
    followed = _followed(view, flow=flow)
    if not followed >= LEAST_FOLLOWED:
        reason = f"only {followed:.0%} of the points could be followed; {LEAST_FOLLOWED:.0%} are needed"
        return FittedCameras(camera_from_world=None, explained=(), reason=reason)
    steps: list[_Step] = []
    path = [np.eye(4)]
    for index in range(len(flow.forward)):
        step = _fit_step(view, flow=flow, index=index)
        steps.append(step)
        if step.motion is None:
            reason = _why(step, index=index)
            return FittedCameras(camera_from_world=None, explained=tuple(one.explained for one in steps), reason=reason)
        path.append(step.motion @ path[-1])
    return FittedCameras(camera_from_world=np.stack(path), explained=tuple(one.explained for one in steps))


def _followed(view: DepthView, *, flow: FlowField) -> float:
    """The share of the pixels with depth whose flow is believed; 0 without any such pixel."""
    valid = view.valid[:-1]
    return float((flow.agrees & valid).sum() / max(1, valid.sum()))


def _why(step: _Step, *, index: int) -> str:
    pair = f"frames {index} and {index + 1}"
    if step.points < FEWEST_POINTS:
        return f"only {step.points} points could be followed between {pair}; {FEWEST_POINTS} are needed"
    return f"no one camera motion explains {LEAST_EXPLAINED:.0%} of the points between {pair}"


def _fit_step(view: DepthView, *, flow: FlowField, index: int) -> _Step:
    """From frame ``index`` to the next."""
    cv2 = import_opencv()
    chosen = _chosen(view, flow=flow, index=index)
    count = int(chosen.sum())
    nothing = _Step(motion=None, explained=0.0, points=count)
    if count < FEWEST_POINTS:
        return nothing
    rows, columns = np.nonzero(chosen)
    place = np.stack([columns, rows], axis=1) + 0.5
    points = _lift(place, depth=view.depth[index][chosen], intrinsics=view.intrinsics[index])
    seen = place + flow.forward[index][chosen]
    matrix = view.intrinsics[index + 1].astype(np.float64)
    tolerance = TOLERANCE * flow.tolerance_scale
    # A fixed seed: the same clip always has the same cameras.
    cv2.setRNGSeed(0)
    try:
        found, rotation, translation, agreeing = cv2.solvePnPRansac(
            points,
            seen,
            matrix,
            None,
            flags=cv2.SOLVEPNP_SQPNP,
            reprojectionError=tolerance,
            iterationsCount=_DRAWS,
            confidence=_CONFIDENCE,
        )
    except cv2.error:
        # OpenCV's word for points that leave the camera open, all on one line for example.
        return nothing
    if not found or agreeing is None or len(agreeing) < max(FEWEST_POINTS // 2, LEAST_EXPLAINED * count):
        return _Step(motion=None, explained=0.0 if agreeing is None else len(agreeing) / count, points=count)
    kept = agreeing[:, 0]
    rotation, translation = cv2.solvePnPRefineLM(points[kept], seen[kept], matrix, None, rotation, translation)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = cv2.Rodrigues(rotation)[0], translation[:, 0]
    if not np.isfinite(motion).all():
        return nothing
    return _Step(motion=motion, explained=len(kept) / count, points=count)


def _chosen(view: DepthView, *, flow: FlowField, index: int) -> Bool[np.ndarray, "H W"]:
    """Pixels on a grid that have depth and can be followed."""
    height, width = view.depth.shape[1:]
    stride = max(1, round((height * width / POINTS) ** 0.5))
    grid = np.zeros((height, width), dtype=bool)
    grid[stride // 2 :: stride, stride // 2 :: stride] = True
    depth = view.depth[index]
    return grid & view.valid[index] & (depth > 0) & np.isfinite(depth) & flow.agrees[index]


def _lift(
    place: Float[np.ndarray, "m 2"], *, depth: Float[np.ndarray, " m"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "m 3"]:
    """Image coordinates to camera coordinates at a depth."""
    rays = np.column_stack([place, np.ones(len(place))]) @ np.linalg.inv(intrinsics.astype(np.float64)).T
    return rays / rays[:, 2:] * depth[:, None].astype(np.float64)
