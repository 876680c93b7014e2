"""Camera moves of the procedural world, with handheld jitter on a share of clips.

Jitter is never named in a caption: a model trained on these clips inherits it, and VGGRPO can repair it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from vggrpo.worlds import vocabulary

LOOK_AT = np.array([0.0, -0.3, 0.0])
"""What the camera looks at, scene frame, metres."""
JITTER_SHARE = 0.5
"""Share of clips with handheld jitter."""
JITTER_METRES = 0.08
JITTER_RADIANS = 0.03
"""Standard deviation of a jitter of full strength; 0.03 rad are three pixels and a half of 128."""
SWAY_PERIODS = (6.0, 10.0)
"""Shortest and longest period of the jitter, frames, of which a second has 8: a hand sways about once a second.
Jitter must outlive the video VAE, which folds four frames into one, or neither the video model nor Φ_g ever sees it:
independent noise a frame of about a pixel, and a sway of 4 to 7 frames of 0.05 m and 0.018 rad, did not
(`python -m vggrpo evaluate jitter` measures it)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraMove:
    """A named move: start, signed total ``amount`` over the whole clip (metres or radians), and jitter.

    Jitter is a sway in all six directions (frame 0 included), each two sines of random period and phase; standard
    deviations in metres and radians.
    """

    name: str
    distance: float
    height: float
    amount: float
    jitter_metres: float
    jitter_radians: float
    jitter_seed: int

    def scene_from_camera(self, num_frames: int) -> Float[np.ndarray, "N 4 4"]:
        """Camera placements, OpenCV axes, for a clip of ``num_frames``."""
        sway = _sway(self.jitter_seed, num_frames=num_frames)
        steps = max(num_frames - 1, 1)
        frames = [self._placement(index / steps) for index in range(num_frames)]
        for index, placement in enumerate(frames):
            placement[:3, 3] += self.jitter_metres * sway[index, :3]
            placement[:3, :3] = placement[:3, :3] @ rotation_from_vector(self.jitter_radians * sway[index, 3:])
        return np.stack(frames)

    def _placement(self, progress: float) -> Float[np.ndarray, "4 4"]:
        """The move without jitter at ``progress`` in [0, 1]; every move has constant speed."""
        start = np.array([0.0, -self.height, -self.distance])
        moved = self.amount * progress
        kind = self.name.split()[0]
        if kind == "orbit":
            return look_at(rotation_about_y(moved) @ start, LOOK_AT)
        placement = look_at(start, LOOK_AT)
        if kind == "truck":
            placement[:3, 3] += moved * placement[:3, 0]
        elif kind == "dolly":
            placement[:3, 3] += moved * placement[:3, 2]
        elif kind == "crane":
            placement[:3, 3] += moved * np.array([0.0, -1.0, 0.0])
        elif kind == "pan":
            placement[:3, :3] = rotation_about_y(moved) @ placement[:3, :3]
        return placement


# Range of the total over a clip, and the sign of each direction. An orbit to the left moves the camera to the left:
# seen from above (y down) that is a positive rotation of its place about the y axis.
_RANGES = {"orbit": (0.45, 0.75), "truck": (0.7, 1.1), "dolly": (0.7, 1.1), "crane": (0.5, 0.8), "pan": (0.25, 0.4)}
_SIGNS = {
    "orbit left": 1.0,
    "orbit right": -1.0,
    "truck left": -1.0,
    "truck right": 1.0,
    "dolly in": 1.0,
    "dolly out": -1.0,
    "crane up": 1.0,
    "crane down": -1.0,
    "pan left": -1.0,
    "pan right": 1.0,
}


def sample_camera_move(rng: np.random.Generator, *, jitter: bool | None = None) -> CameraMove:
    """Draw a move; ``jitter`` None draws it for ``JITTER_SHARE`` of clips."""
    name = str(rng.choice(list(vocabulary.CAMERA_MOVES)))
    kind = name.split()[0]
    amount = _SIGNS[name] * rng.uniform(*_RANGES[kind]) if name != "static" else 0.0
    strength = float(rng.uniform(0.4, 1.0))
    shakes = bool(rng.random() < JITTER_SHARE) if jitter is None else jitter
    low_start = name == "crane up"
    high_start = name == "crane down"
    height = rng.uniform(0.75, 0.95) if low_start else rng.uniform(1.5, 1.7) if high_start else rng.uniform(0.9, 1.5)
    distance = rng.uniform(2.6, 2.9) if name == "dolly out" else rng.uniform(2.9, 3.4)
    return CameraMove(
        name=name,
        distance=float(distance),
        height=float(height),
        amount=float(amount),
        jitter_metres=JITTER_METRES * strength * shakes,
        jitter_radians=JITTER_RADIANS * strength * shakes,
        jitter_seed=int(rng.integers(2**31)),
    )


def _sway(seed: int, *, num_frames: int) -> Float[np.ndarray, "N 6"]:
    """Six independent sums of two sines with variance 1; a longer clip begins like a shorter one."""
    rng = np.random.default_rng(seed)
    period = rng.uniform(*SWAY_PERIODS, size=(2, 6))
    phase = rng.uniform(0.0, 2.0 * np.pi, size=(2, 6))
    time = np.arange(num_frames)[:, None, None]
    return np.sin(2.0 * np.pi * time / period + phase).sum(axis=1)


def look_at(position: ArrayLike, target: ArrayLike) -> Float[np.ndarray, "4 4"]:
    """``scene_from_camera`` of a camera at ``position`` that looks at ``target`` without roll (y is down)."""
    eye = np.asarray(position, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, 0] = right
    matrix[:3, 1] = np.cross(forward, right)
    matrix[:3, 2] = forward
    matrix[:3, 3] = eye
    return matrix


def rotation_about_y(angle: float) -> Float[np.ndarray, "3 3"]:
    """Right-handed rotation about the y axis, radians: positive turns z towards x."""
    cosine = np.cos(angle)
    sine = np.sin(angle)
    return np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])


def rotation_from_vector(vector: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' formula: the rotation by ‖vector‖ radians about its direction."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    skew = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * skew + (1.0 - np.cos(angle)) * (skew @ skew)
