"""What Any4D returns, in its own conventions (``any4d_adapter`` converts them into the project's)."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.latent_geometry.foundation.any4d_config import FlowGrid


@dataclass(frozen=True, kw_only=True)
class Any4DOutput:
    """Official names, views on axis 1. Everything but rays, quaternions, confidence and mask is in metres.

    M is N, unless only some frames were asked for dense outputs. Poses are world-from-camera, quaternions x, y, z, w
    of unit length; ``depth_along_ray`` is the distance along unit rays, NOT z-depth; ``scene_flow`` lives on
    ``flow_grid``.
    """

    cam_trans: Float[Tensor, "B N 3"]
    cam_quats: Float[Tensor, "B N 4"]
    ray_directions: Float[Tensor, "B M H W 3"]
    depth_along_ray: Float[Tensor, "B M H W 1"]
    pts3d_cam: Float[Tensor, "B M H W 3"]
    pts3d: Float[Tensor, "B M H W 3"]
    scene_flow: Float[Tensor, "B M H W 3"]
    metric_scaling_factor: Float[Tensor, "B N 1"]
    conf: Float[Tensor, "B M H W"]
    non_ambiguous_mask: Bool[Tensor, "B M H W"]
    non_ambiguous_mask_logits: Float[Tensor, "B M H W"]
    flow_grid: FlowGrid
