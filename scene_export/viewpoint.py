"""Where a visitor first stands in the scene, and which way is up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_export.run_scene import RunScene

_AZIMUTH = np.deg2rad(38.0)
_ELEVATION = np.deg2rad(26.0)
_GROUND_CONE = np.cos(np.deg2rad(25.0))


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """``position``, ``look_at`` and the unit vector ``up`` in world coordinates."""

    position: NDArray[np.float64]
    look_at: NDArray[np.float64]
    up: NDArray[np.float64]


def choose_viewpoint(scene: RunScene, *, shown: NDArray[np.bool_]) -> Viewpoint:
    """Behind, above and to the side of the cameras, far enough to see the objects and the whole camera path."""
    up = ground_up(scene)
    centres = scene.world_from_camera[:, :3, 3]
    visible = scene.points[shown]
    ahead = centres.mean(axis=0) + np.array([0.0, 0.0, scene.scale])
    focus = np.median(visible, axis=0).astype(np.float64) if len(visible) else ahead
    middle = centres.mean(axis=0)
    backward = middle - focus
    backward = backward - up * (backward @ up)
    distance = float(np.linalg.norm(backward))
    backward = backward / distance if distance > 1e-6 else np.array([0.0, 0.0, -1.0])
    side = np.cross(up, backward)
    direction = np.cos(_ELEVATION) * (np.cos(_AZIMUTH) * backward + np.sin(_AZIMUTH) * side) + np.sin(_ELEVATION) * up
    reach = np.linalg.norm(centres - focus, axis=1).max() if len(centres) else scene.scale
    position = focus + direction * 1.6 * max(float(reach), 0.5 * scene.scale)
    # Between the objects and the cameras, so that both are in view.
    return Viewpoint(position=position, look_at=focus + 0.25 * (middle - focus), up=up)


def ground_up(scene: RunScene) -> NDArray[np.float64]:
    """The ground's normal in frame 0, found by mean shift among surface normals around the camera's own up.

    The world frame is camera 0, which may look down; without this the floor would lie askew. Falls back to the
    camera's up where no surface faces it.
    """
    points = scene.points[0].astype(np.float64)
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(across, down)
    length = np.linalg.norm(normals, axis=-1)
    usable = scene.valid[0, 1:-1, 1:-1] & (length > 1e-12)
    normals = normals[usable] / length[usable][:, None]
    # Normals that face the camera's lower half (y down) are turned over, so that the ground points up.
    normals = np.where(normals[:, 1:2] > 0, -normals, normals)
    up = np.array([0.0, -1.0, 0.0])
    cone = np.cos(np.deg2rad(60.0))
    for _ in range(6):
        near = normals[normals @ up > cone]
        if len(near) < 16:
            return up
        mean = near.mean(axis=0)
        up = mean / np.linalg.norm(mean)
        cone = _GROUND_CONE
    return up
