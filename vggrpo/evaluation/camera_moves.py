"""Which of the world's camera moves a trajectory is: by geometry alone, nothing is learnt.

Straight lines are fitted to the camera's place and orientation over time, so that a sway of a few periods averages
out. Their totals over the clip, seen in the axes of the mean camera, are two vectors:

    travel    how far the camera went, in units of the scene's depth (the scale of a model is not trusted)
    turn      by how much it turned, a rotation vector in radians

Together six numbers. Near zero the camera stands; else the move is the one whose prototype points in the most similar
direction. Directions compare travel with turn, so neither the speed of a move nor, for most of them, the unit matters:
a pan turns without travel, a truck travels without turn, and an orbit does both in the ratio one to one, because it
goes round what it looks at.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.geometry import so3
from vggrpo.geometry.projection import camera_centres
from vggrpo.types import SceneGeometry
from vggrpo.worlds import vocabulary

STILL = 0.085
"""Travel (scene depths) and turn (radians) together below which a camera stands. In the world the smallest move has
0.11 with its jitter; jitter alone, fitted by lines, seldom passes 0.075, and reached 0.10."""
_TILT = 0.28
"""How far the world's cameras look down, radians: 0.13 to 0.44, so "up" is not quite the camera's own."""
_ORBIT_RADIUS = 0.9
"""Of an orbit, in scene depths: the horizontal part of the distance to what it looks at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraMotion:
    """The total motion of a batch of cameras over their clips, in the axes of each mean camera."""

    travel: Float[Tensor, "B 3"]
    turn: Float[Tensor, "B 3"]


def camera_motion(camera_from_world: Float[Tensor, "B N 4 4"], *, scene_depth: Float[Tensor, " B"]) -> CameraMotion:
    """Lines through place and orientation over time; ``scene_depth`` is in the unit of the trajectories.

    The result does not depend on the world frame, nor on the unit.
    """
    poses = camera_from_world.double()
    rotations = poses[..., :3, :3]
    mean_camera = _nearest_rotation(rotations.mean(dim=1))
    places = _line_total(camera_centres(poses))
    travel = (mean_camera @ places[..., None]).squeeze(-1) / scene_depth.double()[:, None]
    # Maps each camera's axes to the mean camera's: a positive y component looks to the right.
    orientations = so3.log(mean_camera[:, None] @ rotations.transpose(-1, -2))
    return CameraMotion(travel=travel, turn=_line_total(orientations))


def classify_camera_moves(
    camera_from_world: Float[Tensor, "B N 4 4"], *, scene_depth: Float[Tensor, " B"]
) -> list[str]:
    """The name of each trajectory's move, one of ``vocabulary.CAMERA_MOVES``.

    ``scene_depth`` is how far away the scene is, in the unit of the trajectories (see ``scene_depth_of``).
    """
    motion = camera_motion(camera_from_world, scene_depth=scene_depth)
    evidence = torch.cat([motion.travel, motion.turn], dim=-1)
    names = list(_PROTOTYPES)
    directions = torch.tensor(list(_PROTOTYPES.values()), dtype=evidence.dtype, device=evidence.device)
    similarity = evidence @ torch.nn.functional.normalize(directions, dim=-1).T
    best = similarity.argmax(dim=-1).tolist()
    stands = (so3.safe_norm(evidence) < STILL).tolist()
    return ["static" if still else names[index] for still, index in zip(stands, best, strict=True)]


def scene_depth_of(scene: SceneGeometry) -> Float[Tensor, " B"]:
    """The median depth of each video's valid pixels (of all pixels where none is valid)."""
    depth = scene.depth.flatten(1).double()
    known = torch.where(scene.valid.flatten(1), depth, torch.nan).nanmedian(dim=1).values
    return torch.where(known.isfinite(), known, depth.median(dim=1).values)


def _line_total(values: Float[Tensor, "B N d"]) -> Float[Tensor, "B d"]:
    """The slope of the least-squares line through N values, times the length of the clip."""
    count = values.shape[1]
    time = torch.linspace(-0.5, 0.5, count, dtype=values.dtype, device=values.device)
    return (time[None, :, None] * values).sum(dim=1) / time.square().sum().clamp(min=1e-12)


def _nearest_rotation(matrix: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    """The rotation nearest to a matrix in the Frobenius norm."""
    left, _, right = torch.linalg.svd(matrix)
    flip = torch.ones_like(matrix[..., 0])
    flip[..., 2] = torch.sign(torch.linalg.det(left @ right))
    return (left * flip[..., None, :]) @ right


def _prototypes() -> dict[str, tuple[float, ...]]:
    """Travel and turn of every move but "static", camera axes (x right, y down, z forward)."""
    up = (0.0, -math.cos(_TILT), -math.sin(_TILT))
    right, forward, rightwards = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, math.cos(_TILT), math.sin(_TILT))
    rest = (0.0, 0.0, 0.0)
    # An orbit to the left travels left while it turns to the right, towards what it goes round.
    orbit_left = (*(-_ORBIT_RADIUS * x for x in right), *rightwards)
    positive = {
        "orbit left": orbit_left,
        "truck right": (*right, *rest),
        "dolly in": (*forward, *rest),
        "crane up": (*up, *rest),
        "pan right": (*rest, *rightwards),
    }
    opposite = {"left": "right", "right": "left", "in": "out", "up": "down"}
    named = dict(positive)
    for name, vector in positive.items():
        kind, way = name.split()
        named[f"{kind} {opposite[way]}"] = tuple(-x for x in vector)
    return {name: named[name] for name in vocabulary.CAMERA_MOVES if name != "static"}


_PROTOTYPES = MappingProxyType(_prototypes())
