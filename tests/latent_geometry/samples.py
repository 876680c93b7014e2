"""Exact scenes and random clips with known relations."""

import torch

from vggrpo.geometry import so3
from vggrpo.geometry.projection import pixel_grid, rigid_inverse
from vggrpo.latent_geometry.connector import ConnectorConfig
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.types import Latents, SceneGeometry

DEBUG_CONNECTOR = ConnectorConfig(latent_channels=2, token_dim=DEBUG.encoder_dim, kernel=(3, 3, 3))


def debug_clips(count: int, *, frames_of_latents: int = 2, seed: int = 0) -> list[AlignedClip]:
    """Random pairs on matching grids: latents 2 x T x 4 x 4, video 4 (T - 1) + 1 frames of 32 x 32 pixels."""
    generator = torch.Generator().manual_seed(seed)
    frames = 4 * (frames_of_latents - 1) + 1
    return [
        AlignedClip(
            latents=Latents(tensor=torch.randn(1, 2, frames_of_latents, 4, 4, generator=generator)),
            images=torch.rand(1, frames, 3, 32, 32, generator=generator),
        )
        for _ in range(count)
    ]


def exact_scene(*, frames: int = 3, height: int = 24, width: int = 32) -> SceneGeometry:
    """A moving camera before a smooth relief: every field follows from cameras, intrinsics and depth; float64."""
    options = {"dtype": torch.float64}
    time = torch.arange(frames, **options)
    rotation = so3.exp(torch.stack([0.05 * time, -0.1 * time, 0.02 * time], dim=-1))
    centre = torch.stack([0.3 * time, -0.1 * time, 0.2 * time], dim=-1)
    world_from_camera = torch.eye(4, **options).repeat(frames, 1, 1)
    world_from_camera[:, :3, :3] = rotation
    world_from_camera[:, :3, 3] = centre
    focal_x, focal_y = 40.0 + time, 42.0 - time
    intrinsics = torch.zeros(frames, 3, 3, **options)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 2, 2] = focal_x, focal_y, 1.0
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 15.0 + time, 13.0 - time
    pixels = pixel_grid(height, width, like=time)
    depth = 3 + torch.sin(0.2 * pixels[..., 0] + 0.3 * pixels[..., 1] + time[:, None, None])
    x = (pixels[..., 0] - intrinsics[:, 0, 2, None, None]) / focal_x[:, None, None]
    y = (pixels[..., 1] - intrinsics[:, 1, 2, None, None]) / focal_y[:, None, None]
    camera_points = torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth[..., None]
    points = torch.einsum("nij,nhwj->nhwi", rotation, camera_points) + centre[:, None, None]
    flow = torch.stack([0.1 * x, 0.05 * y, 0.02 * x * y], dim=-1)
    valid = depth > 2.2
    fields = {
        "camera_from_world": rigid_inverse(world_from_camera),
        "intrinsics": intrinsics,
        "depth": depth,
        "points": points,
        "scene_flow": flow,
        "confidence": 1 + depth,
        "valid": valid,
        "flow_valid": valid,
    }
    return SceneGeometry(**{name: value[None] for name, value in fields.items()})
