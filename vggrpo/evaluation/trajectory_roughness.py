"""How rough a camera path is, in physical terms: the acceleration of place and orientation.

Not the reward's formula: that one is a ratio of acceleration to speed, and a model trained on it may have learnt to
please the ratio. Here lie the accelerations themselves, for which a slower camera wins only as far as it is slower:
read them beside the path's length.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.geometry import so3
from vggrpo.geometry.projection import camera_centres

FEWEST_FRAMES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TrajectoryRoughness:
    """Root mean square over the inner frames; zero for constant velocity, NaN for fewer than three frames.

    ``travel``: ‖c_{i+1} − 2 c_i + c_{i−1}‖ in scene depths a frame². ``turn``: the angle of the same difference of
    rotations, degrees a frame². ``path``: the length of the path in scene depths.
    """

    travel: Float[Tensor, " B"]
    turn: Float[Tensor, " B"]
    path: Float[Tensor, " B"]


def trajectory_roughness(
    camera_from_world: Float[Tensor, "B N 4 4"], *, scene_depth: Float[Tensor, " B"]
) -> TrajectoryRoughness:
    """Roughness of a batch of camera paths; ``scene_depth`` is in their unit (``camera_moves.scene_depth_of``).

    Independent of the world frame and of the unit. Jitter of standard deviation σ in each axis gives √18 σ of travel.
    """
    poses = camera_from_world.double()
    depth = scene_depth.double()
    steps = camera_centres(poses).diff(dim=1)
    path = so3.safe_norm(steps).sum(dim=1) / depth
    if poses.shape[1] < FEWEST_FRAMES:
        unknown = torch.full_like(depth, torch.nan)
        return TrajectoryRoughness(travel=unknown, turn=unknown, path=path)
    acceleration = so3.safe_norm(steps.diff(dim=1)) / depth[:, None]
    rotations = poses[..., :3, :3]
    # Turns from frame to frame in the axes of the camera; their change is a rotation, too.
    turns = rotations[:, 1:] @ rotations[:, :-1].transpose(-1, -2)
    change = so3.log(turns[:, 1:] @ turns[:, :-1].transpose(-1, -2))
    return TrajectoryRoughness(
        travel=acceleration.square().mean(dim=1).sqrt(),
        turn=torch.rad2deg(so3.safe_norm(change).square().mean(dim=1).sqrt()),
        path=path,
    )
