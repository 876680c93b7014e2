"""Motion smoothness: does the camera move without jerks? Equations of reference method.md paragraph 3.

    v_i = c_{i+1} − c_i           a_i = v_i − v_{i−1}          s_trans,i = ‖a_i‖ / (‖v_i‖ + ‖v_{i−1}‖ + ε)
    ω_i = log(R_iᵀ R_{i+1})       α_i = ω_i − ω_{i−1}          s_rot,i likewise
    r = ½ (1 / (1 + mean s_trans) + 1 / (1 + mean s_rot))      in [½, 1], 1 for constant velocity

with camera centres c and world-from-camera rotations R. A perfectly still camera scores 1: nothing about it is rough.
That is why the camera path length (``guards``) has to be read beside this reward: standing still is the easiest way to
a perfect score.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.geometry import so3
from vggrpo.geometry.projection import camera_centres
from vggrpo.rewards.measurable import (
    MIN_FRAMES,
    blank_where,
    common_reasons,
    unit_of,
    unjudged_term,
    without_unusable_values,
)
from vggrpo.rewards.settings import DEFAULT_MOTION, MotionSettings
from vggrpo.types import RewardTerm, SceneGeometry


def motion_smoothness(scene: SceneGeometry, *, settings: MotionSettings = DEFAULT_MOTION) -> RewardTerm:
    """Score the camera path. ``per_frame`` is ½ (1 / (1 + s_trans,i) + 1 / (1 + s_rot,i)), NaN for both end frames.

    NaN with a reason for fewer than three frames, cameras that are not finite, or no valid depth (which leaves the
    scene scale, and with it ε, unknown).
    """
    reasons = common_reasons(scene)
    if scene.num_frames < MIN_FRAMES:
        return unjudged_term("motion_smoothness", scene=scene, reasons=reasons)
    scale = unit_of(scene)
    cameras = without_unusable_values(scene).camera_from_world
    velocity = camera_centres(cameras).diff(dim=1)
    angular_velocity = _body_rotations(cameras[..., :3, :3])
    roughness_trans = _roughness(velocity, still=settings.still_step * scale[:, None])
    roughness_rot = _roughness(angular_velocity, still=torch.full_like(scale, settings.still_angle)[:, None])
    value = 0.5 * (1 / (1 + roughness_trans.mean(dim=1)) + 1 / (1 + roughness_rot.mean(dim=1)))
    inner = 0.5 * (1 / (1 + roughness_trans) + 1 / (1 + roughness_rot))
    per_frame = torch.nn.functional.pad(inner, (1, 1), value=torch.nan)
    return RewardTerm(
        name="motion_smoothness",
        value=blank_where(reasons, values=value),
        per_frame=blank_where(reasons, values=per_frame),
        reasons=tuple(reasons),
    )


def _body_rotations(rotation: Float[Tensor, "B N 3 3"]) -> Float[Tensor, "B M 3"]:
    """ω_i = log(R_iᵀ R_{i+1}) from camera-from-world rotations R_iᵀ, radians a frame, M = N − 1."""
    return so3.log(rotation[:, :-1] @ rotation[:, 1:].transpose(-1, -2))


def _roughness(velocity: Float[Tensor, "B M 3"], *, still: Float[Tensor, "B 1"]) -> Float[Tensor, "B L"]:
    """s_i = ‖v_i − v_{i−1}‖ / (‖v_i‖ + ‖v_{i−1}‖ + ε), in [0, 1), L = M − 1."""
    speed = so3.safe_norm(velocity)
    acceleration = so3.safe_norm(velocity.diff(dim=1))
    return acceleration / (speed[:, 1:] + speed[:, :-1] + still)
