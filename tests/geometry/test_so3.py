"""Rotations against scipy-free oracles: the matrix exponential, group axioms and finite gradients at the corners."""

import math

import pytest
import torch

from vggrpo.geometry import so3

ANGLES = (0.0, 1e-9, 1e-4, 0.3, 1.5, 3.0, math.pi - 1e-4, math.pi - 1e-9)


def axes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    axes = torch.cat([random, torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    return torch.nn.functional.normalize(axes, dim=-1)


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_is_the_matrix_exponential(angle: float) -> None:
    vector = angle * axes()
    torch.testing.assert_close(so3.exp(vector), torch.linalg.matrix_exp(so3.skew_matrix(vector)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_inverts_exp(angle: float) -> None:
    vector = angle * axes()
    torch.testing.assert_close(so3.log(so3.exp(vector)), vector, atol=1e-7, rtol=0)


def test_log_at_pi_has_angle_pi_and_the_axis_up_to_sign() -> None:
    half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    assert so3.log(half_turn).abs().tolist() == pytest.approx([math.pi, 0.0, 0.0])


def test_log_keeps_small_angles_in_float32() -> None:
    vector = torch.tensor([1e-4, -2e-4, 3e-4])
    torch.testing.assert_close(so3.log(so3.exp(vector)), vector, atol=1e-9, rtol=1e-4)


def test_quaternions_and_matrices_are_inverse() -> None:
    quaternion = torch.nn.functional.normalize(
        torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=-1
    )
    recovered = so3.quaternion_from_matrix(so3.matrix_from_quaternion(quaternion))
    sign = quaternion[:, 3:].sign()
    torch.testing.assert_close(recovered, quaternion * sign)


def test_quaternion_order_is_xyzw() -> None:
    quarter_turn_about_z = torch.tensor([0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])
    rotated = so3.matrix_from_quaternion(quarter_turn_about_z) @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(rotated, torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-3, 1.0, 3.1, math.pi])
def test_gradients_are_finite(angle: float) -> None:
    vector = torch.tensor([angle, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    rotation = so3.exp(vector)
    (so3.log(rotation).square().sum() + so3.angle_between(rotation, torch.eye(3).double())).backward()
    assert vector.grad is not None
    assert vector.grad.isfinite().all()


def test_gradients_are_right() -> None:
    for angle in (1e-5, 0.7, 2.9):
        vector = (angle * axes()[0]).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: so3.log(so3.exp(v)), (vector,))


def test_norm_of_zero_has_zero_gradient() -> None:
    vector = torch.zeros(2, 3, requires_grad=True)
    so3.safe_norm(vector).sum().backward()
    assert vector.grad is not None
    assert vector.grad.abs().max() == 0
