"""Where a moving object's points were at another time: exact, since every object is rigid."""

import numpy as np
from jaxtyping import Float, Int

from vggrpo.worlds.rendering import FIRST_OBJECT_ID
from vggrpo.worlds.scenes import SceneSpec


def motions_to_first(
    scene: SceneSpec, *, frames: Int[np.ndarray, " n"], num_frames: int
) -> Float[np.ndarray, "n ids 4 4"]:
    """Rigid motions that take an object's points from the time of each of ``frames`` to the time of the first of them.

    World frame (the camera of frame 0 of a clip of ``num_frames``), metres. The second index is a clip's ``object_id``;
    sky and ground keep their places.
    """
    scene_from_world = scene.camera.scene_from_camera(num_frames)[0]
    world_from_scene = np.linalg.inv(scene_from_world)
    motions = np.tile(np.eye(4), (len(frames), FIRST_OBJECT_ID + len(scene.objects), 1, 1))
    for index, item in enumerate(scene.objects):
        if not item.moves:
            continue
        first = item.scene_from_object(int(frames[0]))
        for number, frame in enumerate(frames):
            moved = first @ np.linalg.inv(item.scene_from_object(int(frame)))
            motions[number, FIRST_OBJECT_ID + index] = world_from_scene @ moved @ scene_from_world
    return motions
