"""Scenes of geometry models that see no motion: cameras, intrinsics and depth give the points, and there is no flow."""

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.geometry.projection import rigid_inverse, world_points_from_depth
from vggrpo.types import SceneGeometry

MIN_DEPTH = 1e-6
# In image widths: fields of view of 169 degrees and of half a degree.
SHORTEST_FOCAL, LONGEST_FOCAL = 0.05, 100.0


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


def plausible_focals(intrinsics: Float[Tensor, "B N 3 3"], *, size: tuple[int, int]) -> Float[Tensor, "B N 3 3"]:
    """K as it is; where a focal length is one that no camera has, both become as long as the image is wide."""
    width = float(size[1])
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1)
    is_camera = ((focal > SHORTEST_FOCAL * width) & (focal < LONGEST_FOCAL * width)).all(-1)
    usual = torch.tensor([[width, 0, size[1] / 2], [0, width, size[0] / 2], [0, 0, 1]]).to(intrinsics)
    return torch.where(is_camera[..., None, None], intrinsics, usual)
