"""Motion smoothness against the numbers that its definition gives for known camera paths."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rewards.analytic import displace_frame, make_scene, move_world, truck_path, yaw
from vggrpo.geometry import so3
from vggrpo.rewards import motion_smoothness
from vggrpo.types import SceneGeometry

STEPS = 400


def scene_with_cameras(velocity: torch.Tensor, angular_velocity: torch.Tensor) -> SceneGeometry:
    """A batch of videos with given steps [B, N − 1, 3] (world) and turns (body, radians) and depth 1 everywhere."""
    batch, steps = velocity.shape[:2]
    centres = torch.nn.functional.pad(velocity.cumsum(dim=1), (0, 0, 1, 0))
    rotations = [torch.eye(3, dtype=torch.float64).expand(batch, 3, 3)]
    for turn in so3.exp(angular_velocity).unbind(dim=1):
        rotations.append(rotations[-1] @ turn)
    rotation = torch.stack(rotations, dim=1).transpose(-1, -2)
    cameras = torch.eye(4, dtype=torch.float64).repeat(batch, steps + 1, 1, 1)
    cameras[..., :3, :3] = rotation
    cameras[..., :3, 3] = -(rotation @ centres[..., None]).squeeze(-1)
    plane = torch.ones(batch, steps + 1, 1, 1, dtype=torch.float64)
    everywhere = plane.bool()
    return SceneGeometry(
        camera_from_world=cameras,
        intrinsics=torch.eye(3, dtype=torch.float64).expand(batch, steps + 1, 3, 3),
        depth=plane,
        points=plane[..., None].expand(-1, -1, -1, -1, 3),
        scene_flow=torch.zeros(batch, steps + 1, 1, 1, 3, dtype=torch.float64),
        confidence=plane,
        valid=everywhere,
        flow_valid=everywhere,
    )


def constant(vector: tuple[float, float, float], *, batch: int = 1, steps: int = STEPS) -> torch.Tensor:
    return torch.tensor(vector, dtype=torch.float64).expand(batch, steps, 3)


def noise(*, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, STEPS, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_constant_velocity_scores_one() -> None:
    term = motion_smoothness(scene_with_cameras(constant((0.3, 0.1, 0.5)), constant((0.02, -0.01, 0.005))))
    assert term.value.item() == pytest.approx(1.0, abs=1e-9)
    assert term.per_frame[0, 1:-1].tolist() == pytest.approx([1.0] * (STEPS - 1), abs=1e-9)
    assert term.per_frame[0, [0, -1]].isnan().all()


@pytest.mark.parametrize(("share", "expected"), [(0.05, 0.947), (0.10, 0.899), (0.30, 0.759)])
def test_relative_velocity_noise_scores_as_calibrated(share: float, expected: float) -> None:
    """Gaussian noise of this share of the speed on every component; 20 × 399 samples leave about 0.001 of doubt."""
    # Far above the still-camera epsilon, so that it does not enter.
    velocity, turn = constant((0.0, 0.0, 5.0), batch=20), constant((0.0, 1.0, 0.0), batch=20)
    scene = scene_with_cameras(velocity + 5.0 * share * noise(batch=20), turn + share * noise(batch=20, seed=1))
    assert motion_smoothness(scene).value.mean().item() == pytest.approx(expected, abs=0.004)


def test_random_velocity_has_a_roughness_of_seven_tenths() -> None:
    scene = scene_with_cameras(noise(batch=20), 0.1 * noise(batch=20, seed=1))
    roughness = 1 / motion_smoothness(scene).value.mean().item() - 1
    assert roughness == pytest.approx(0.71, abs=0.02)


def test_reversing_at_every_step_is_the_worst_there_is() -> None:
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(STEPS // 2)[None, :, None]
    scene = scene_with_cameras(sign * constant((0.0, 0.0, 5.0)), sign * constant((0.0, 1.0, 0.0)))
    assert motion_smoothness(scene).value.item() == pytest.approx(0.5, abs=1e-3)


def test_a_frozen_camera_scores_one_as_documented() -> None:
    term = motion_smoothness(scene_with_cameras(constant((0.0, 0.0, 0.0)), constant((0.0, 0.0, 0.0))))
    assert term.value.tolist() == [1.0]
    assert term.reasons == (None,)


def test_tiny_jitter_of_a_standing_camera_is_not_blown_up() -> None:
    scene = scene_with_cameras(1e-5 * noise(), 1e-5 * noise(seed=1))
    assert motion_smoothness(scene).value.item() > 0.95


def test_world_frame_and_unit_do_not_matter() -> None:
    scene = displace_frame(make_scene(), 4, (0.05, 0.02, 0.0))
    moved = move_world(scene, rotation=yaw(1.1), translation=np.array([3.0, -2.0, 5.0]), scale=40.0)
    torch.testing.assert_close(
        motion_smoothness(moved).per_frame, motion_smoothness(scene).per_frame, equal_nan=True, rtol=1e-9, atol=1e-9
    )
    assert motion_smoothness(scene).value.item() < 0.95


def test_a_displaced_frame_and_its_neighbours_are_the_roughest() -> None:
    per_frame = motion_smoothness(displace_frame(make_scene(), 4, (0.0, 0.3, 0.0))).per_frame[0]
    assert per_frame.nan_to_num(nan=1.0).argmin().item() == 4
    assert (per_frame[[3, 4, 5]] < 0.95).all()
    assert per_frame[[1, 2, 6, 7]].min().item() == pytest.approx(1.0)


def test_a_turn_that_stutters_is_seen_without_translation() -> None:
    path = np.tile(np.eye(4), (7, 1, 1))
    for frame, angle in enumerate([0.0, 0.02, 0.04, 0.12, 0.08, 0.10, 0.12]):
        path[frame, :3, :3] = yaw(angle)
    term = motion_smoothness(make_scene(path, spheres=()))
    assert term.value.item() < 0.9
    assert term.per_frame[0].nan_to_num(nan=1.0).argmin().item() == 3


@pytest.mark.parametrize("num_frames", [1, 2])
def test_too_few_frames_cannot_be_judged(num_frames: int) -> None:
    term = motion_smoothness(make_scene(truck_path(num_frames)))
    assert term.value.isnan().all()
    assert term.per_frame.shape == (1, num_frames)
    assert term.reasons[0] is not None
    assert "3" in term.reasons[0]


def test_one_broken_video_does_not_spoil_its_batch() -> None:
    scene = make_scene()
    both = scene.map(lambda tensor: torch.cat([tensor, tensor]))
    cameras = both.camera_from_world.clone()
    cameras[1, 2, 0, 3] = math.nan
    term = motion_smoothness(replace(both, camera_from_world=cameras))
    assert term.value[0].item() == pytest.approx(1.0)
    assert term.value[1].isnan()
    assert term.reasons[0] is None
    assert "not finite" in str(term.reasons[1])


def test_gradients_are_finite_for_a_frozen_camera_and_right_for_a_moving_one() -> None:
    frozen = make_scene(np.tile(np.eye(4), (5, 1, 1)))
    cameras = frozen.camera_from_world.clone().requires_grad_()
    motion_smoothness(replace(frozen, camera_from_world=cameras)).value.sum().backward()
    assert cameras.grad is not None
    assert cameras.grad.isfinite().all()

    scene = scene_with_cameras(0.1 * noise()[:, :4], 0.1 * noise(seed=1)[:, :4])

    def score(translation: torch.Tensor) -> torch.Tensor:
        moved = torch.cat([scene.camera_from_world[..., :3], translation[..., None]], dim=-1)
        return motion_smoothness(replace(scene, camera_from_world=moved)).value

    assert torch.autograd.gradcheck(score, (scene.camera_from_world[..., 3].clone().requires_grad_(),))
