"""The rotation group SO(3): exponential, logarithm and unit quaternions in xyzw order.

Every function has finite gradients everywhere, also at the identity. The logarithm goes through the quaternion: neither
small angles nor angles near pi lose digits, as they do through arccos of the trace. At exactly pi the axis is one of
two opposite ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Below this squared angle (or squared sine) the Taylor series is exact to float64 rounding in the terms kept here.
_SMALL_SQUARED = 1e-6


def safe_norm(vector: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Euclidean norm over the last axis; its gradient at the zero vector is zero instead of NaN."""
    squared = vector.square().sum(dim=-1)
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())


def matrix_from_quaternion(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a quaternion xyzw, which is normalised first."""
    x, y, z, w = torch.nn.functional.normalize(quaternion, dim=-1).unbind(dim=-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_matrix(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion xyzw with w >= 0 of a rotation matrix.

    The rows of 4 q qᵀ are four multiples of q that are linear in the matrix. The row with the largest diagonal entry
    has a norm of at least 2, so normalising it is safe at every rotation.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in rotation.unbind(-2))
    outer = (
        (1 + m00 - m11 - m22, m01 + m10, m02 + m20, m21 - m12),
        (m01 + m10, 1 - m00 + m11 - m22, m12 + m21, m02 - m20),
        (m02 + m20, m12 + m21, 1 - m00 - m11 + m22, m10 - m01),
        (m21 - m12, m02 - m20, m10 - m01, 1 + m00 + m11 + m22),
    )
    multiples = torch.stack([torch.stack(row, dim=-1) for row in outer], dim=-2)
    best = multiples.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = multiples.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = torch.nn.functional.normalize(row, dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def exp(rotation_vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a rotation vector (axis times angle in radians): Rodrigues' formula."""
    squared = rotation_vector.square().sum(dim=-1)
    is_small = squared < _SMALL_SQUARED
    angle = torch.where(is_small, 1.0, squared).sqrt()
    sine = torch.where(is_small, 1 - squared / 6 + squared.square() / 120, angle.sin() / angle)
    cosine = torch.where(is_small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    skew = skew_matrix(rotation_vector)
    identity = torch.eye(3, dtype=skew.dtype, device=skew.device)
    return identity + sine[..., None, None] * skew + cosine[..., None, None] * (skew @ skew)


def log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector (axis times angle in radians, angle in [0, pi]) of a rotation matrix."""
    quaternion = quaternion_from_matrix(rotation)
    axis_sine, cosine = quaternion[..., :3], quaternion[..., 3]
    squared = axis_sine.square().sum(dim=-1)
    is_small = squared < _SMALL_SQUARED
    sine = torch.where(is_small, 1.0, squared).sqrt()
    # The half angle is arctan2(sine, cosine); near zero arctan(x) / x = 1 - x²/3 with x = sine / cosine.
    near_one = torch.where(is_small, cosine, 1.0)
    ratio = squared / near_one.square()
    series = (1 - ratio / 3 + ratio.square() / 5) / near_one
    factor = 2 * torch.where(is_small, series, torch.atan2(sine, cosine) / sine)
    return factor[..., None] * axis_sine


def skew_matrix(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The matrix [v]× with [v]× u = v × u."""
    x, y, z = vector.unbind(dim=-1)
    zero = torch.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def angle_between(first: Float[Tensor, "*batch 3 3"], second: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Geodesic angle in radians between two rotations."""
    return safe_norm(log(first.transpose(-1, -2) @ second))
