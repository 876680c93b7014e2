"""Scenes whose geometry is known in closed form: a ground plane, a back wall and spheres, ray cast with numpy formulas.

Nothing here uses the code under test: rays, intersections and poses are written out again.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from vggrpo.types import SceneGeometry

HEIGHT = WIDTH = 64
FOCAL = 60.0
GROUND_Y = 1.5
WALL_Z = 9.0


@dataclass(frozen=True, kw_only=True)
class Sphere:
    """Centre at frame 0, radius, and velocity in world units a frame."""

    centre: tuple[float, float, float]
    radius: float
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)


STANDING = (Sphere(centre=(-0.9, 0.9, 4.0), radius=0.6), Sphere(centre=(1.2, 0.7, 5.5), radius=0.8))
MOVING = Sphere(centre=(-0.8, 0.6, 3.5), radius=0.5, velocity=(0.2, 0.0, 0.0))


def yaw(angle: float) -> np.ndarray:
    """Rotation about the y axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


def truck_path(num_frames: int = 9, *, step: float = 0.08, turn: float = 0.01) -> np.ndarray:
    """[N, 4, 4] world_from_camera of a camera that moves sideways and forwards while it turns, at constant velocity."""
    poses = np.tile(np.eye(4), (num_frames, 1, 1))
    for frame in range(num_frames):
        poses[frame, :3, :3] = yaw(turn * frame)
        poses[frame, :3, 3] = np.array([1.0, 0.0, 0.5]) * step * frame
    return poses


def _hit_sphere(origin: np.ndarray, rays: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Ray parameter of the nearer intersection, infinite where the ray misses."""
    offset = origin - centre
    a, b = (rays**2).sum(-1), (rays * offset).sum(-1)
    discriminant = b**2 - a * ((offset**2).sum() - radius**2)
    distance = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant > 0) & (distance > 0), distance, np.inf)


def _cast_frame(world_from_camera: np.ndarray, frame: int, spheres: tuple[Sphere, ...]) -> dict[str, np.ndarray]:
    """Depth, points and flow of one frame."""
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    in_camera = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], axis=-1)
    rays = in_camera @ world_from_camera[:3, :3].T
    origin = world_from_camera[:3, 3]
    with np.errstate(divide="ignore"):
        ground = np.where(rays[..., 1] > 0, (GROUND_Y - origin[1]) / rays[..., 1], np.inf)
        wall = np.where(rays[..., 2] > 0, (WALL_Z - origin[2]) / rays[..., 2], np.inf)
    surfaces, velocities = [ground, wall], [np.zeros(3), np.zeros(3)]
    for sphere in spheres:
        velocity = np.array(sphere.velocity)
        surfaces.append(_hit_sphere(origin, rays, np.array(sphere.centre) + frame * velocity, sphere.radius))
        velocities.append(velocity)
    stack = np.stack(surfaces)
    # Rays have z = 1 in the camera, so the ray parameter is the z-depth.
    depth = stack.min(axis=0)
    points = origin + depth[..., None] * rays
    return {"depth": depth, "points": points, "scene_flow": np.array(velocities)[stack.argmin(axis=0)]}


def make_scene(
    world_from_camera: np.ndarray | None = None,
    *,
    spheres: tuple[Sphere, ...] = STANDING,
    dtype: torch.dtype = torch.float64,
) -> SceneGeometry:
    """The exact geometry of a video of spheres over ground before a wall, batch of one."""
    path = truck_path() if world_from_camera is None else world_from_camera
    frames = [_cast_frame(pose, frame, spheres) for frame, pose in enumerate(path)]
    arrays = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    arrays["camera_from_world"] = np.linalg.inv(path)
    arrays["intrinsics"] = np.tile(intrinsics, (len(path), 1, 1))
    tensors = {name: torch.from_numpy(array).to(dtype)[None] for name, array in arrays.items()}
    everywhere = torch.ones(1, len(path), HEIGHT, WIDTH, dtype=torch.bool)
    return SceneGeometry(
        **tensors,
        confidence=everywhere.to(dtype),
        valid=everywhere,
        flow_valid=everywhere.clone(),
    )


def scale_frame_depth(scene: SceneGeometry, frame: int, factor: float) -> SceneGeometry:
    """The same video with one frame whose depth and points are wrong by a factor (its camera stays right)."""
    depth, points = scene.depth.clone(), scene.points.clone()
    world_from_camera = torch.linalg.inv(scene.camera_from_world[:, frame])
    centre = world_from_camera[:, None, None, :3, 3]
    depth[:, frame] *= factor
    points[:, frame] = centre + factor * (points[:, frame] - centre)
    return replace(scene, depth=depth, points=points)


def displace_frame(scene: SceneGeometry, frame: int, offset: tuple[float, float, float]) -> SceneGeometry:
    """The same video with one frame put at a wrong place: its camera and its points move together."""
    shift = torch.eye(4, dtype=scene.depth.dtype)
    shift[:3, 3] = torch.tensor(offset, dtype=scene.depth.dtype)
    cameras, points = scene.camera_from_world.clone(), scene.points.clone()
    cameras[:, frame] = cameras[:, frame] @ torch.linalg.inv(shift)
    points[:, frame] = points[:, frame] + shift[:3, 3]
    return replace(scene, camera_from_world=cameras, points=points)


def move_world(scene: SceneGeometry, *, rotation: np.ndarray, translation: np.ndarray, scale: float) -> SceneGeometry:
    """The same video in another world frame and unit: x → scale · rotation x + translation."""
    dtype = scene.depth.dtype
    turn, shift = torch.from_numpy(rotation).to(dtype), torch.from_numpy(translation).to(dtype)
    world_from_camera = torch.linalg.inv(scene.camera_from_world)
    moved = world_from_camera.clone()
    moved[..., :3, :3] = turn @ world_from_camera[..., :3, :3]
    moved[..., :3, 3] = scale * world_from_camera[..., :3, 3] @ turn.T + shift
    return replace(
        scene,
        camera_from_world=torch.linalg.inv(moved),
        depth=scale * scene.depth,
        points=scale * scene.points @ turn.T + shift,
        scene_flow=scale * scene.scene_flow @ turn.T,
    )
