"""Scenes of geometry models that see no motion: cameras, intrinsics and depth give the points, and there is no flow."""

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.geometry.projection import rigid_inverse, world_points_from_depth
from vggrpo.types import SceneGeometry

MIN_DEPTH = 1e-6


def static_scene(
    *,
    camera_from_world: Float[Tensor, "B N 4 4"],
    intrinsics: Float[Tensor, "B N 3 3"],
    depth: Float[Tensor, "B N H W"],
    confidence: Float[Tensor, "B N H W"],
) -> SceneGeometry:
    """The project's geometry with ``scene_flow`` zero and ``flow_valid`` False: everything is taken to stand still.

    Every pixel with a finite positive depth is valid; such models mark no sky.
    """
    points = world_points_from_depth(depth, intrinsics=intrinsics, camera_from_world=camera_from_world)
    return SceneGeometry(
        camera_from_world=camera_from_world,
        intrinsics=intrinsics,
        depth=depth,
        points=points,
        scene_flow=torch.zeros_like(points),
        confidence=confidence,
        valid=depth.isfinite() & (depth > MIN_DEPTH),
        flow_valid=torch.zeros_like(depth, dtype=torch.bool),
    )


def anchored_cameras(camera_from_world: Float[Tensor, "B N 4 4"]) -> Float[Tensor, "B N 4 4"]:
    """The same cameras in the frame of camera 0: E_i E_0⁻¹, with exactly the identity for i = 0."""
    first = torch.eye(4, dtype=camera_from_world.dtype, device=camera_from_world.device)
    others = camera_from_world[:, 1:] @ rigid_inverse(camera_from_world[:, :1])
    return torch.cat([first.expand(camera_from_world.shape[0], 1, 4, 4), others], dim=1)
