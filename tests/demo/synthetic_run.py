"""A run folder with exact geometry, made by analytic ray casting: three spheres on a checkered floor, an orbiting
camera, and one sphere that slides. Nothing here needs torch, so the page's tests run without a model.
"""

import csv
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FLOOR_HEIGHT = 0.6
SPHERES = (((0.0, 0.1, 3.0), 0.5, (214, 48, 49)), ((1.0, 0.25, 3.6), 0.35, (48, 102, 214)))
SLIDING = ((-0.9, 0.3, 2.6), 0.3, (246, 213, 60))
SLIDE_PER_FRAME = 0.09


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The arrays of a clip in the contract's shapes, and its colours."""

    rgb: np.ndarray
    geometry: dict[str, np.ndarray]
    error: np.ndarray


def render_clip(*, num_frames: int = 17, size: int = 64, orbit: float = 0.5) -> Clip:
    """Frames, exact geometry and a made-up error map; ``orbit`` is the angle of the whole camera path in radians."""
    intrinsics = np.array([[size * 1.1, 0, size / 2], [0, size * 1.1, size / 2], [0, 0, 1]], dtype=np.float32)
    target = np.array([0.0, 0.2, 3.0])
    world_from_orbit = [_orbit_pose(angle, target) for angle in np.linspace(0.0, orbit, num_frames)]
    frames = [_cast(pose, intrinsics, time=k, to_world=world_from_orbit[0]) for k, pose in enumerate(world_from_orbit)]
    camera_from_world = np.stack([np.linalg.inv(pose) @ world_from_orbit[0] for pose in world_from_orbit])
    flow = np.stack([frame["flow"] for frame in frames])
    depth = np.stack([frame["depth"] for frame in frames]).astype(np.float32)
    valid = np.stack([frame["valid"] for frame in frames])
    error = np.where(valid, 0.02 * depth / 3.0, np.nan)
    error[num_frames // 2] *= 4.0
    geometry = {
        "camera_from_world": camera_from_world.astype(np.float32),
        "intrinsics": np.tile(intrinsics, (num_frames, 1, 1)),
        "depth": depth,
        "points": np.stack([frame["points"] for frame in frames]).astype(np.float32),
        "scene_flow": flow.astype(np.float32),
        "confidence": np.ones_like(depth),
        "valid": valid,
    }
    return Clip(rgb=np.stack([frame["rgb"] for frame in frames]), geometry=geometry, error=error.astype(np.float16))


def write_run(
    folder: Path, *, num_frames: int = 17, size: int = 64, orbit: float = 0.5, with_error: bool = True
) -> Path:
    """Write a whole run folder (the contract of the CLI), without the recording."""
    folder.mkdir(parents=True)
    clip = render_clip(num_frames=num_frames, size=size, orbit=orbit)
    np.savez_compressed(folder / "geometry.npz", **clip.geometry)
    write_video(folder / "video.mp4", clip.rgb)
    if with_error:
        np.savez_compressed(folder / "error_maps.npz", geometry_consistency=clip.error)
    (folder / "rewards.json").write_text(json.dumps(synthetic_rewards(num_frames)))
    manifest = {
        "prompt": "a red sphere and a yellow sphere on a grey checkered floor, the camera orbits right",
        "seed": 7,
        "preset": "tiny",
        "adapter": None,
        "timings": {"denoise": 4.2, "decode": 0.3, "geometry": 0.6, "rewards": 0.1, "recording": 0.3},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def synthetic_rewards(num_frames: int) -> dict:
    """Plausible rewards in the contract's form, with the worst frames around the middle."""
    time = np.arange(num_frames)
    middle = num_frames // 2
    dip = np.exp(-0.5 * ((time - middle) / 1.2) ** 2)
    motion = [None, *(0.96 - 0.25 * dip[1:-1]).round(5).tolist(), None]
    geometry = (-0.012 - 0.05 * dip).round(5).tolist()
    return {
        "motion_smoothness": {"value": 0.934, "per_frame": motion},
        "geometry_consistency": {
            "value": -0.0487,
            "per_frame": geometry,
            "worst_frames": [middle, middle - 1, middle + 1],
        },
        "scene_smoothness": {"value": 0.951, "per_frame": [None, *(0.97 - 0.1 * dip[1:-1]).tolist(), None]},
        "guards": {"camera_path_length": 1.47, "dynamic_degree": 0.083, "moving_share": 0.031},
    }


def write_video(path: Path, rgb: np.ndarray, *, fps: int = 8) -> None:
    """H.264, yuv420p, index first."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = rgb.shape[2], rgb.shape[1], "yuv420p"
        for frame in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read_csv(path: Path) -> list[list[str]]:
    """Rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def _orbit_pose(angle: float, target: np.ndarray) -> np.ndarray:
    """world_from_camera on a circle around the target, looking at it, in the world of angle 0's ground."""
    eye = target + np.array([3.2 * np.sin(angle), -0.9, -3.2 * np.cos(angle)])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose


def _cast(pose: np.ndarray, intrinsics: np.ndarray, *, time: int, to_world: np.ndarray) -> dict[str, np.ndarray]:
    """One frame's depth, points, flow (in the world of camera 0), colours and mask."""
    size = round(float(intrinsics[0, 2]) * 2)
    v, u = np.mgrid[:size, :size] + 0.5
    camera_rays = np.stack([(u - intrinsics[0, 2]) / intrinsics[0, 0], (v - intrinsics[1, 2]) / intrinsics[1, 1]], -1)
    rays = np.concatenate([camera_rays, np.ones((size, size, 1))], -1) @ pose[:3, :3].T
    eye = pose[:3, 3]
    falls = rays[..., 1] > 1e-6
    depth = np.where(falls, (FLOOR_HEIGHT - eye[1]) / np.where(falls, rays[..., 1], 1), np.inf)
    hit = eye + rays * np.where(np.isfinite(depth), depth, 0)[..., None]
    depth = np.where(np.linalg.norm(hit - np.array([0, 0, 3.0]), axis=-1) < 8, depth, np.inf)
    checks = (np.floor(hit[..., 0] * 1.5) + np.floor(hit[..., 2] * 1.5)) % 2 > 0
    rgb = np.where(checks[..., None], (150, 152, 158), (205, 207, 212)).astype(float)
    flow = np.zeros((size, size, 3))
    slid = np.array(SLIDING[0]) + np.array([SLIDE_PER_FRAME * time, 0, 0])
    for centre, radius, colour, speed in (
        *((np.array(c), r, k, 0.0) for c, r, k in SPHERES),
        (slid, SLIDING[1], SLIDING[2], SLIDE_PER_FRAME),
    ):
        offset = eye - centre
        a, b, c = (rays * rays).sum(-1), 2 * (rays @ offset), offset @ offset - radius**2
        discriminant = b * b - 4 * a * c
        near = (-b - np.sqrt(np.maximum(discriminant, 0))) / (2 * a)
        closer = (discriminant > 0) & (near > 0) & (near < depth)
        normal = (eye + rays * near[..., None] - centre) / radius
        shade = 0.45 + 0.55 * np.clip(normal @ np.array([0.4, -0.8, -0.45]), 0, 1)
        depth = np.where(closer, near, depth)
        rgb = np.where(closer[..., None], np.array(colour) * shade[..., None], rgb)
        flow[closer] = to_world[:3, :3].T @ np.array([speed, 0, 0])
    valid = np.isfinite(depth)
    depth = np.where(valid, depth, 0.0)
    world = eye + rays * depth[..., None]
    points = (world - to_world[:3, 3]) @ to_world[:3, :3]
    rgb = np.where(valid[..., None], rgb, (188, 205, 226))
    flow[~valid] = 0.0
    return {
        "depth": depth,
        "points": np.where(valid[..., None], points, 0.0),
        "flow": flow,
        "valid": valid,
        "rgb": np.clip(rgb, 0, 255).astype(np.uint8),
    }
