"""What is in a scene and how it moves: specifications drawn from a seed.

The scene frame has its origin on the ground under the middle of the objects: x right, y down (the ground is y = 0,
heights are negative), z forward. The world frame of a clip is the camera of frame 0.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vggrpo.worlds import vocabulary
from vggrpo.worlds.cameras import CameraMove, sample_camera_move

HOP_HEIGHT = 0.45
"""Metres."""
SLIDE_SPEED = 0.055
"""Metres a frame."""
SPIN_SPEED = np.pi / 20.0
"""Radians a frame."""
HOP_PERIOD = 8.0
"""Frames from one landing to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectSpec:
    """One textured primitive that stands on the ground. ``size`` is its half width in metres."""

    words: vocabulary.ObjectWords
    size: float
    position: tuple[float, float]
    heading: float
    """Rotation about the vertical axis at frame 0, radians."""

    def scene_from_object(self, frame: int) -> Float[np.ndarray, "4 4"]:
        """Rigid placement at a frame: object coordinates (origin at the primitive's centre) to the scene frame."""
        x, z = self.position
        y = -self.size
        angle = self.heading
        match self.words.motion:
            case "slide left":
                x -= SLIDE_SPEED * frame
            case "slide right":
                x += SLIDE_SPEED * frame
            case "spin":
                angle += SPIN_SPEED * frame
            case "hop":
                phase = (frame % HOP_PERIOD) / HOP_PERIOD
                y -= HOP_HEIGHT * 4.0 * phase * (1.0 - phase)
        cosine = np.cos(angle)
        sine = np.sin(angle)
        return np.array([[cosine, 0, sine, x], [0, 1, 0, y], [-sine, 0, cosine, z], [0, 0, 0, 1]], dtype=np.float64)

    @property
    def moves(self) -> bool:
        """Whether any of its points ever changes place."""
        return self.words.motion != "still"


@dataclass(frozen=True, kw_only=True, slots=True)
class FloorSpec:
    """The ground's colour word, pattern word, pattern period (metres) and offset."""

    colour: str
    pattern: str
    period: float
    offset: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSpec:
    """Everything that a clip is rendered from."""

    objects: tuple[ObjectSpec, ...]
    floor: FloorSpec
    camera: CameraMove
    sun: tuple[float, float, float]
    """Unit vector from the scene to the sun, scene frame (y is negative: up)."""

    @property
    def caption(self) -> str:
        """The sentence that describes the scene."""
        return vocabulary.compose_caption(
            tuple(item.words for item in self.objects),
            floor_colour=self.floor.colour,
            floor_pattern=self.floor.pattern,
            camera_move=self.camera.name,
        )


def _sample_objects(rng: np.random.Generator) -> tuple[ObjectSpec, ...]:
    """One or two objects of different colours whose places on the ground do not meet."""
    fewest, most = vocabulary.NUMBER_OF_OBJECTS
    count = int(rng.integers(fewest, most + 1))
    colours = rng.permutation(list(vocabulary.COLOURS))[:count]
    mover = int(rng.integers(count)) if rng.random() < 0.55 else -1
    motions = [name for name in vocabulary.OBJECT_MOTIONS if name != "still"]
    spacing = 1.3
    start = -spacing * (count - 1) / 2.0
    columns = rng.permutation(count)
    objects = []
    for index in range(count):
        motion = str(rng.choice(motions)) if index == mover else "still"
        drift = {"slide left": 0.4, "slide right": -0.4}.get(motion, 0.0)
        x = start + spacing * columns[index] + rng.uniform(-0.07, 0.07) + drift * (count == 1)
        depth = rng.uniform(-0.5, 0.5) if motion == "still" else rng.uniform(-0.75, -0.45)
        objects.append(
            ObjectSpec(
                words=vocabulary.ObjectWords(
                    colour=str(colours[index]),
                    shape=str(rng.choice(vocabulary.SHAPES)),
                    motion=motion,
                ),
                size=float(rng.uniform(0.42, 0.56)),
                position=(float(x), float(depth)),
                heading=float(rng.uniform(-np.pi, np.pi)),
            )
        )
    # The caption names objects from left to right, so that words and places agree.
    return tuple(sorted(objects, key=lambda item: item.position[0]))


def sample_scene(seed: int, *, jitter: bool | None = None) -> SceneSpec:
    """A scene from a seed. ``jitter`` forces handheld jitter on or off; None draws it for about half the seeds."""
    rng = np.random.default_rng([seed, 0x5CE2E])
    objects = _sample_objects(rng)
    floor = FloorSpec(
        colour=str(rng.choice(list(vocabulary.FLOOR_COLOURS))),
        pattern=str(rng.choice(vocabulary.FLOOR_PATTERNS)),
        period=float(rng.uniform(0.85, 1.05)),
        offset=(float(rng.uniform(0, 1)), float(rng.uniform(0, 1))),
    )
    camera = sample_camera_move(rng, jitter=jitter)
    azimuth = rng.uniform(0, 2 * np.pi)
    height = rng.uniform(0.9, 1.2)
    sun = np.array([np.cos(azimuth) * np.cos(height), -np.sin(height), np.sin(azimuth) * np.cos(height)])
    return SceneSpec(objects=objects, floor=floor, camera=camera, sun=(float(sun[0]), float(sun[1]), float(sun[2])))
