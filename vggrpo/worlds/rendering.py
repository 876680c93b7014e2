"""Rendering of scenes with open3d's ray caster, and their exact geometry.

Colours are the mean of 2×2 rays a pixel, geometry comes from the ray through the pixel's centre. The ground is a disc
whose pattern fades with distance: an aliased horizon is noise that no VAE can keep.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vggrpo.runtime.errors import UserError
from vggrpo.types import ClipGeometry, WorldClip
from vggrpo.worlds import vocabulary
from vggrpo.worlds.scenes import ObjectSpec, SceneSpec

FOCAL_OVER_WIDTH = 0.9
"""Focal length in image widths: a horizontal field of view of 58°."""
GROUND_RADIUS = 9.0
"""Metres; beyond it there is sky."""
FADE = (3.5, 7.5)
"""Distances (metres) between which the ground's pattern fades into its mean, and the ground into haze."""
SKY_HORIZON = np.array([222.0, 230.0, 240.0], dtype=np.float32)
SKY_ZENITH = np.array([120.0, 168.0, 222.0], dtype=np.float32)
SKY_ID = 0
GROUND_ID = 1
FIRST_OBJECT_ID = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hits:
    """Ray hits of one frame; R rays. ``distance`` is along unit rays and infinite for sky."""

    distance: Float[np.ndarray, " R"]
    object_id: Int[np.ndarray, " R"]
    point: Float[np.ndarray, "R 3"]
    normal: Float[np.ndarray, "R 3"]


def import_open3d():  # noqa: ANN201 - open3d ships no usable type for its tensor module
    """open3d, imported only when something is rendered. Raises a UserError that names the missing library."""
    try:
        import open3d
    except ImportError as error:
        message = (
            f"open3d cannot be loaded ({error}): on Debian or Ubuntu run "
            "`apt-get install -y libusb-1.0-0 libgl1 libegl1`; the procedural world needs it, the demo does not."
        )
        raise UserError(message) from error
    return open3d


def intrinsics_for(height: int, width: int) -> Float[np.ndarray, "3 3"]:
    """K in pixels; the principal point is the image's middle."""
    focal = FOCAL_OVER_WIDTH * width
    return np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])


def render_clip(scene: SceneSpec, *, num_frames: int = 17, height: int = 128, width: int = 128) -> WorldClip:
    """Render a scene to a clip with exact geometry; the world frame is the camera of frame 0."""
    intrinsics = intrinsics_for(height, width)
    scene_from_camera = scene.camera.scene_from_camera(num_frames)
    world_from_scene = np.linalg.inv(scene_from_camera[0])
    caster = _Caster(scene)
    centre_rays = _camera_rays(intrinsics, height, width, samples=1)
    # Colours need no double precision; geometry does.
    colour_rays = _camera_rays(intrinsics, height, width, samples=2).astype(np.float32)
    shape = (num_frames, height, width)
    rgb = np.zeros((*shape, 3), np.uint8)
    object_id = np.zeros(shape, np.uint8)
    depth = np.zeros(shape, np.float32)
    points = np.zeros((*shape, 3), np.float32)
    flow = np.zeros((*shape, 3), np.float32)
    for frame in range(num_frames):
        pose = scene_from_camera[frame]
        caster.place_objects(frame)
        pose32 = pose.astype(np.float32)
        colours = caster.shade(colour_rays @ pose32[:3, :3].T, pose32[:3, 3], frame)
        colours = colours.reshape(height, 2, width, 2, 3).mean((1, 3))
        rgb[frame] = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
        hits = caster.cast(centre_rays @ pose[:3, :3].T, pose[:3, 3])
        world_points = hits.point @ world_from_scene[:3, :3].T + world_from_scene[:3, 3]
        hit = np.isfinite(hits.distance)
        z_depth = ((hits.point - pose[:3, 3]) @ pose[:3, 2]) * hit
        motion = _displacements(scene, hits, frame=frame, num_frames=num_frames) @ world_from_scene[:3, :3].T
        object_id[frame] = hits.object_id.reshape(height, width)
        depth[frame] = z_depth.reshape(height, width)
        points[frame] = (world_points * hit[:, None]).reshape(height, width, 3)
        flow[frame] = motion.reshape(height, width, 3)
    camera_from_world = np.linalg.inv(world_from_scene @ scene_from_camera)
    moving_ids = [FIRST_OBJECT_ID + index for index, item in enumerate(scene.objects) if item.moves]
    geometry = ClipGeometry(
        camera_from_world=camera_from_world.astype(np.float32),
        intrinsics=np.repeat(intrinsics[None], num_frames, 0).astype(np.float32),
        depth=depth,
        points=points,
        scene_flow=flow,
        confidence=np.ones(shape, np.float32),
        valid=object_id != SKY_ID,
    )
    return WorldClip(
        rgb=rgb,
        caption=scene.caption,
        geometry=geometry,
        object_id=object_id,
        moving=np.isin(object_id, moving_ids),
    )


def _camera_rays(
    intrinsics: Float[np.ndarray, "3 3"],
    height: int,
    width: int,
    *,
    samples: int,
) -> Float[np.ndarray, "R 3"]:
    """Unit rays in the camera frame through a grid of samples × samples points a pixel, row by row."""
    rows = (np.arange(height * samples) + 0.5) / samples
    columns = (np.arange(width * samples) + 0.5) / samples
    x = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
    grid = np.stack([*np.meshgrid(x, y), np.ones((height * samples, width * samples))], -1).reshape(-1, 3)
    return grid / np.linalg.norm(grid, axis=-1, keepdims=True)


def _displacements(
    scene: SceneSpec,
    hits: _Hits,
    *,
    frame: int,
    num_frames: int,
) -> Float[np.ndarray, "R 3"]:
    """Scene flow of one frame's hits in the scene frame: to the next frame, for the last frame from the one before."""
    flow = np.zeros_like(hits.point)
    first, second = (frame, frame + 1) if frame + 1 < num_frames else (frame - 1, frame)
    if first < 0:
        return flow
    for index, item in enumerate(scene.objects):
        mask = hits.object_id == FIRST_OBJECT_ID + index
        if not (item.moves and mask.any()):
            continue
        local = _to_object(hits.point[mask], item, frame)
        flow[mask] = _to_scene(local, item, second) - _to_scene(local, item, first)
    return flow


def _to_object(points: Float[np.ndarray, "R 3"], item: ObjectSpec, frame: int) -> Float[np.ndarray, "R 3"]:
    """Scene points in an object's own frame (the inverse of a rigid motion)."""
    placement = item.scene_from_object(frame)
    return (points - placement[:3, 3]) @ placement[:3, :3]


def _to_scene(points: Float[np.ndarray, "R 3"], item: ObjectSpec, frame: int) -> Float[np.ndarray, "R 3"]:
    """Object points in the scene frame."""
    placement = item.scene_from_object(frame)
    return points @ placement[:3, :3].T + placement[:3, 3]


class _Caster:
    """Ray casting and shading of one scene, frame by frame."""

    def __init__(self, scene: SceneSpec) -> None:
        self._o3d = import_open3d()
        self._scene = scene
        self._meshes = [_primitive_mesh(self._o3d, item) for item in scene.objects]
        self._ground = _ground_mesh(self._o3d)
        self._raycaster = self._o3d.t.geometry.RaycastingScene(nthreads=1)

    def place_objects(self, frame: int) -> None:
        """Build the scene as it stands at a frame."""
        self._raycaster = self._o3d.t.geometry.RaycastingScene(nthreads=1)
        self._raycaster.add_triangles(self._ground)
        for mesh, item in zip(self._meshes, self._scene.objects, strict=True):
            placed = mesh.clone()
            placed.transform(self._o3d.core.Tensor(item.scene_from_object(frame).astype(np.float32)))
            self._raycaster.add_triangles(placed)

    def cast(self, directions: Float[np.ndarray, "R 3"], origin: Float[np.ndarray, " 3"]) -> _Hits:
        """First hits of unit rays in the scene frame."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], -1).astype(np.float32)
        answer = self._raycaster.cast_rays(self._o3d.core.Tensor(rays))
        distance = answer["t_hit"].numpy().astype(directions.dtype)
        hit = np.isfinite(distance)
        geometry = answer["geometry_ids"].numpy().astype(np.int64)
        # open3d numbers geometries in the order they were added: the ground, then the objects.
        object_id = np.where(hit, geometry + GROUND_ID, SKY_ID)
        point = origin + directions * np.where(hit, distance, 0)[:, None].astype(directions.dtype)
        normal = answer["primitive_normals"].numpy().astype(directions.dtype)
        facing_away = np.einsum("ij,ij->i", normal, directions)[:, None] > 0
        return _Hits(distance=distance, object_id=object_id, point=point, normal=np.where(facing_away, -normal, normal))

    def shade(
        self,
        directions: Float[np.ndarray, "R 3"],
        origin: Float[np.ndarray, " 3"],
        frame: int,
    ) -> Float[np.ndarray, "R 3"]:
        """Colours (0 to 255) of unit rays: texture, sun with shadow, sky light, haze."""
        hits = self.cast(directions, origin)
        colours = _sky_colours(directions)
        ground = hits.object_id == GROUND_ID
        normals = hits.normal.copy()
        colours[ground] = _ground_colours(self._scene, hits.point[ground], hits.distance[ground])
        for index, item in enumerate(self._scene.objects):
            mask = hits.object_id == FIRST_OBJECT_ID + index
            local = _to_object(hits.point[mask], item, frame)
            colours[mask] = _object_colours(item, local)
            if item.words.shape == "sphere":
                outward = local / np.maximum(np.linalg.norm(local, axis=-1, keepdims=True), 1e-9)
                normals[mask] = outward @ item.scene_from_object(frame)[:3, :3].T
        solid = hits.object_id != SKY_ID
        colours[solid] *= self._light(hits.point[solid], normals[solid])[:, None]
        haze = np.zeros(len(colours), dtype=colours.dtype)
        haze[ground] = np.clip((hits.distance[ground] - FADE[0]) / (FADE[1] - FADE[0]), 0.0, 1.0) ** 1.5
        return colours + haze[:, None] * (SKY_HORIZON - colours)

    def _light(self, points: Float[np.ndarray, "R 3"], normals: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " R"]:
        """Lambert's law with a cast shadow and light from the sky above."""
        sun = np.array(self._scene.sun, dtype=points.dtype)
        cosine = np.clip(normals @ sun, 0.0, 1.0)
        rays = np.concatenate([points + 2e-3 * normals, np.broadcast_to(sun, points.shape)], -1).astype(np.float32)
        shadowed = self._raycaster.test_occlusions(self._o3d.core.Tensor(rays)).numpy()
        skylight = 0.58 - 0.1 * normals[:, 1]
        return skylight + 0.5 * cosine * ~shadowed


def _primitive_mesh(o3d, item: ObjectSpec):  # noqa: ANN001, ANN202 - open3d's tensor meshes have no usable type
    """The primitive in its own frame: its centre at the origin, y down, standing on y = +size."""
    size = item.size
    create = o3d.geometry.TriangleMesh
    match item.words.shape:
        case "sphere":
            legacy = create.create_sphere(size, resolution=40)
        case "cube":
            legacy = create.create_box(2 * size, 2 * size, 2 * size).translate((-size, -size, -size))
        case "cylinder":
            legacy = create.create_cylinder(size, 2 * size, resolution=64, split=1)
        case _:
            legacy = create.create_cone(1.1 * size, 2 * size, resolution=64, split=1).translate((0, 0, -size))
    # open3d's axis of symmetry is z, up; ours is y, down: a quarter turn about x takes z to -y.
    legacy.rotate(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), center=(0.0, 0.0, 0.0))
    return o3d.t.geometry.TriangleMesh.from_legacy(legacy)


def _ground_mesh(o3d):  # noqa: ANN001, ANN202 - as above
    """A disc in y = 0."""
    angles = np.linspace(0.0, 2 * np.pi, 97)[:-1]
    rim = np.stack([GROUND_RADIUS * np.cos(angles), np.zeros(96), GROUND_RADIUS * np.sin(angles)], -1)
    vertices = np.concatenate([np.zeros((1, 3)), rim]).astype(np.float32)
    index = np.arange(96)
    triangles = np.stack([np.zeros(96, int), 1 + index, 1 + (index + 1) % 96], -1).astype(np.int32)
    return o3d.t.geometry.TriangleMesh(o3d.core.Tensor(vertices), o3d.core.Tensor(triangles))


def _sky_colours(directions: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
    """A gradient from the horizon to the zenith."""
    height = np.clip(-directions[:, 1:2] * 2.0, 0.0, 1.0)
    return SKY_HORIZON + height * (SKY_ZENITH - SKY_HORIZON)


def _soft_step(value: Float[np.ndarray, " R"], width: float) -> Float[np.ndarray, " R"]:
    """0 below -width, 1 above +width, linear between: an edge that supersampling can follow."""
    return np.clip(value / (2.0 * width) + 0.5, 0.0, 1.0)


def _ground_colours(
    scene: SceneSpec,
    points: Float[np.ndarray, "R 3"],
    distance: Float[np.ndarray, " R"],
) -> Float[np.ndarray, "R 3"]:
    """The pattern of the floor, fading to its mean tone with distance."""
    floor = scene.floor
    u = points[:, 0] / floor.period + floor.offset[0]
    v = points[:, 2] / floor.period + floor.offset[1]
    edge = 0.04
    wave_u = np.sin(np.pi * u)
    wave_v = np.sin(np.pi * v)
    match floor.pattern:
        case "checkered":
            tone, mean = _soft_step(wave_u * wave_v, edge), 0.5
        case "striped":
            tone, mean = _soft_step(wave_u, edge), 0.5
        case "tiled":
            near_line = np.minimum(np.abs(wave_u), np.abs(wave_v))
            tone, mean = _soft_step(near_line - 0.16, edge), 0.8
        case _:
            radius = np.hypot(u - np.rint(u), v - np.rint(v))
            tone, mean = _soft_step(radius - 0.27, edge), 0.77
    fade = np.clip((distance - FADE[0]) / (FADE[1] - FADE[0]), 0.0, 1.0)
    tone = tone + fade * (mean - tone)
    base = np.array(vocabulary.FLOOR_COLOURS[floor.colour], dtype=points.dtype)
    return base * (0.55 + 0.45 * tone[:, None])


def _object_colours(item: ObjectSpec, local: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, "R 3"]:
    """Two tones of the object's colour: sectors on round things, quarters on a cube's faces."""
    scaled = local / item.size
    if item.words.shape == "cube":
        band = np.sin(np.pi * scaled[:, 0]) * np.sin(np.pi * scaled[:, 1]) * np.sin(np.pi * scaled[:, 2] + 0.5 * np.pi)
        tone = _soft_step(band, 0.05)
    else:
        tone = _soft_step(np.sin(3.0 * np.arctan2(scaled[:, 0], scaled[:, 2])), 0.15)
    base = np.array(vocabulary.COLOURS[item.words.colour], dtype=local.dtype)
    light = base + 0.25 * (255.0 - base)
    return base * 0.92 + tone[:, None] * (light - base * 0.92)
