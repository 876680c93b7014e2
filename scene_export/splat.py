"""A picture of a point cloud without a GPU: numpy z-buffer, a few milliseconds, exact colours."""

import numpy as np
from numpy.typing import NDArray

from scene_export.colouring import colour_scene
from scene_export.run_scene import RunScene
from scene_export.sampling import shown_pixels
from scene_export.viewpoint import choose_viewpoint


def splat_scene(scene: RunScene, *, height: int, width: int, frame: int = 0) -> NDArray[np.uint8]:
    """One frame's points from the recording's first view, RGBA [height, width, 4], transparent where nothing is."""
    shown = shown_pixels(scene)
    view = choose_viewpoint(scene, shown=shown)
    colours = colour_scene(scene, colour="depth" if scene.rgb is None else "rgb")[frame][shown[frame]]
    forward = view.look_at - view.position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, view.up)
    right = right / np.linalg.norm(right)
    camera = np.stack([right, np.cross(forward, right), forward])
    points = (scene.points[frame][shown[frame]] - view.position) @ camera.T
    focal = height / (2.0 * np.tan(np.deg2rad(25.0)))
    in_front = points[:, 2] > 1e-6
    points, colours = points[in_front], colours[in_front]
    column = np.floor(focal * points[:, 0] / points[:, 2] + width / 2).astype(int)
    row = np.floor(focal * points[:, 1] / points[:, 2] + height / 2).astype(int)
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    order = np.argsort(-points[:, 2], kind="stable")
    # Far to near, each point as a 2×2 square: the nearest is written last and stays.
    for down in (0, 1):
        for across in (0, 1):
            rows, columns = row[order] + down, column[order] + across
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            picture[rows[inside], columns[inside], :3] = colours[order][inside]
            picture[rows[inside], columns[inside], 3] = 255
    return picture
