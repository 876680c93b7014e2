"""How far a camera gets, without its jitter: a guard.

The plain length of a path counts every sway, so that a camera which stops shaking seems to move less (measured on the
world: jitter makes a dolly's path 1.6 times as long). Here straight lines are fitted to the camera's place and
orientation over stretches of a second or so, and their lengths are added up: what averages out within a stretch does
not count. Travel in scene depths and turn in radians together, because a radian moves the picture about as much as a
scene depth sideways, and a pan has no travel.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.evaluation.camera_moves import camera_motion
from vggrpo.geometry import so3

STRETCH = 16
"""Steps of a stretch: two seconds of the embedded world, one of Wan."""


def camera_extent(
    camera_from_world: Float[Tensor, "B N 4 4"], *, scene_depth: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Σ over stretches of ‖(travel, turn)‖; ``scene_depth`` is in the unit of the trajectories."""
    steps = camera_from_world.shape[1] - 1
    count = max(1, round(steps / STRETCH))
    bounds = [round(index * steps / count) for index in range(count + 1)]
    total = torch.zeros_like(scene_depth, dtype=torch.float64)
    for first, last in pairwise(bounds):
        motion = camera_motion(camera_from_world[:, first : last + 1], scene_depth=scene_depth)
        total = total + so3.safe_norm(torch.cat([motion.travel, motion.turn], dim=-1))
    return total
