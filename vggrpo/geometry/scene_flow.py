"""Scene flow F: which points stand still, and where the others go."""

from jaxtyping import Bool, Float
from torch import Tensor

from vggrpo.geometry.so3 import safe_norm


def static_mask(
    scene_flow: Float[Tensor, "B N H W 3"],
    *,
    flow_valid: Bool[Tensor, "B N H W"],
    scale: Float[Tensor, " B"],
    threshold: float,
) -> Bool[Tensor, "B N H W"]:
    """Pixels whose point stands still: ‖F‖ < threshold · scene scale.

    Pixels without a meaningful flow count as static: a geometry model without flow cannot excuse anything.
    """
    is_slow = safe_norm(scene_flow) < threshold * scale[:, None, None, None]
    return is_slow | ~flow_valid


def advance_points(
    points: Float[Tensor, "B N H W 3"],
    *,
    scene_flow: Float[Tensor, "B N H W 3"],
    is_static: Bool[Tensor, "B N H W"],
) -> Float[Tensor, "B N H W 3"]:
    """Each frame's points one frame later: static points keep their place, the others follow their flow."""
    return points + scene_flow.masked_fill(is_static[..., None], 0.0)
