"""A reward of one's own: the horizon stays level.

python -m vggrpo score --geometry runs/first/geometry.npz --reward-file examples/level_horizon.py --out runs/level
python -m vggrpo train --reward-file examples/level_horizon.py --weights.more level_horizon 0.5 --out runs/leveller
"""

from torch import Tensor

from vggrpo.rewards import SceneGeometry, add_reward


@add_reward
def level_horizon(scene: SceneGeometry) -> Tensor:
    """1 − |sin roll| of every frame, [B, N]: the camera's x axis leaves the plane that frame 0 called level."""
    right_in_world = scene.camera_from_world[..., 0, :3]
    return 1.0 - right_in_world[..., 1].abs()
