"""The four ways to colour a scene, one image [H, W, 3] a frame each: the video pane and the points share them."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scene_export.colour_maps import colour_depth, colour_error, colour_flow, colour_motion
from scene_export.run_scene import RunScene

Colour = Literal["rgb", "depth", "error", "motion"]

COLOURS: tuple[Colour, ...] = get_args(Colour)


def available_colours(scene: RunScene) -> tuple[Colour, ...]:
    """The colourings that this run has data for (error maps and the video may be absent)."""
    present = {"rgb": scene.rgb is not None, "depth": True, "error": scene.error is not None, "motion": True}
    return tuple(colour for colour in COLOURS if present[colour])


def colour_scene(scene: RunScene, *, colour: Colour) -> NDArray[np.uint8]:
    """Colours [N, H, W, 3]. Raises ``ValueError`` for a colouring that the run has no data for."""
    if colour not in available_colours(scene):
        raise ValueError(f"this run cannot be coloured by {colour!r}; it has {', '.join(available_colours(scene))}")
    if colour == "depth":
        return colour_depth(scene.depth, valid=scene.valid)
    if colour == "motion":
        return colour_motion(scene.rgb, is_moving=scene.is_moving)
    image = scene.rgb if colour == "rgb" else None
    if image is not None:
        return image
    assert scene.error is not None, "available_colours() said so"
    return colour_error(scene.error)


def colour_scene_flow(scene: RunScene) -> NDArray[np.uint8]:
    """Scene flow as each camera sees it [N, H, W, 3]: hue is the direction in the image plane.

    The displacement is rotated into the frame's own camera; its x and y give the hue, the 98th percentile of the
    moving points' speed is fully saturated.
    """
    in_camera = np.einsum("nij,nhwj->nhwi", scene.camera_from_world[:, :3, :3], scene.scene_flow)
    speed = np.linalg.norm(scene.scene_flow, axis=-1)
    moving = scene.is_moving
    full_scale = float(np.percentile(speed[moving], 98.0)) if moving.any() else scene.scale
    return colour_flow(np.where(scene.valid[..., None], in_camera[..., :2], 0.0), full_scale=full_scale)
