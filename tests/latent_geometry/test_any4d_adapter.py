"""The adapter, fed with an Any4D output that was made from an exact scene, must give that scene back."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.latent_geometry.samples import exact_scene
from vggrpo.geometry import so3
from vggrpo.geometry.projection import rigid_inverse, rigid_matrix
from vggrpo.latent_geometry.foundation import any4d_adapter
from vggrpo.latent_geometry.foundation.any4d_adapter import (
    FlowSteps,
    anchored_poses,
    intrinsics_from_rays,
    to_decoded_frames,
    to_scene_geometry,
    with_own_flow,
)
from vggrpo.latent_geometry.foundation.any4d_output import Any4DOutput
from vggrpo.types import SceneGeometry

# The world of the fake output is not camera 0: a trained model predicts that camera, it is not forced.
DRIFT_ROTATION = so3.exp(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))
DRIFT_CENTRE = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def as_any4d(scene: SceneGeometry, *, flow_grid: str = "self") -> Any4DOutput:
    """The output that an exact model would give, in a drifted world."""
    world_from_camera = rigid_inverse(scene.camera_from_world)
    rotation = DRIFT_ROTATION @ world_from_camera[..., :3, :3]
    centre = world_from_camera[..., :3, 3] @ DRIFT_ROTATION.T + DRIFT_CENTRE
    local = scene.points - world_from_camera[:, :, None, None, :3, 3]
    camera_points = torch.einsum("bnji,bnhwj->bnhwi", world_from_camera[..., :3, :3], local)
    distance = camera_points.norm(dim=-1, keepdim=True)
    return Any4DOutput(
        cam_trans=centre,
        cam_quats=so3.quaternion_from_matrix(rotation),
        ray_directions=F.normalize(camera_points, dim=-1),
        depth_along_ray=distance,
        pts3d_cam=camera_points,
        pts3d=scene.points @ DRIFT_ROTATION.T + DRIFT_CENTRE,
        scene_flow=scene.scene_flow @ DRIFT_ROTATION.T,
        metric_scaling_factor=torch.ones_like(centre[..., :1]),
        conf=scene.confidence,
        non_ambiguous_mask=scene.valid,
        non_ambiguous_mask_logits=torch.where(scene.valid, 1.0, -1.0).double(),
        flow_grid="self" if flow_grid == "self" else "reference",
    )


def test_exact_scene_comes_back() -> None:
    scene = exact_scene()
    converted = to_scene_geometry(as_any4d(scene))
    for name in scene.__dataclass_fields__:
        torch.testing.assert_close(getattr(converted, name), getattr(scene, name), rtol=0, atol=1e-9, msg=name)


def test_world_is_exactly_camera_zero() -> None:
    converted = to_scene_geometry(as_any4d(exact_scene()))
    assert torch.equal(converted.camera_from_world[0, 0], torch.eye(4, dtype=torch.float64))


def test_depth_is_z_and_not_the_distance_along_the_ray() -> None:
    output = as_any4d(exact_scene())
    converted = to_scene_geometry(output)
    assert (output.depth_along_ray[..., 0] - converted.depth).max() > 0.1
    assert torch.equal(converted.depth, output.pts3d_cam[..., 2])


def test_points_behind_the_camera_are_invalid() -> None:
    output = as_any4d(exact_scene())
    flipped = output.pts3d_cam.clone()
    flipped[0, 1, :5] *= -1
    assert not to_scene_geometry(replace(output, pts3d_cam=flipped)).valid[0, 1, :5].any()


def test_poses_round_trip_through_quaternions() -> None:
    rotation = so3.exp(torch.randn(2, 5, 3, dtype=torch.float64))
    centre = torch.randn(2, 5, 3, dtype=torch.float64)
    poses = rigid_matrix(rotation, centre)
    expected = rigid_inverse(poses[:, :1]) @ poses
    torch.testing.assert_close(anchored_poses(so3.quaternion_from_matrix(rotation), centre), expected)


def test_intrinsics_ignore_rays_behind_the_camera() -> None:
    scene = exact_scene()
    rays = as_any4d(scene).ray_directions.clone()
    rays[..., :4, :4, :] = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(intrinsics_from_rays(rays), scene.intrinsics)


def test_conversion_is_differentiable() -> None:
    output = as_any4d(exact_scene())
    leaves = [output.cam_trans, output.cam_quats, output.pts3d_cam, output.ray_directions, output.scene_flow]
    for leaf in leaves:
        leaf.requires_grad_()
    scene = to_scene_geometry(output)
    fields = (scene.camera_from_world, scene.intrinsics, scene.depth, scene.points, scene.scene_flow)
    torch.stack([field.square().sum() for field in fields]).sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().sum() > 0


def translating_plane(frames: int) -> Any4DOutput:
    """A fronto-parallel plane at depth 4 that moves right by a quarter pixel's worth a frame before still cameras."""
    height, width = 8, 12
    columns, rows = torch.arange(width).double() + 0.5, torch.arange(height).double()[:, None] + 0.5
    ones = torch.ones(height, width, dtype=torch.float64)
    points = torch.stack([(columns - 6) / 10 * ones, (rows - 4) / 10 * ones, ones], dim=-1) * 4
    points = points.expand(1, frames, height, width, 3).clone()
    step = torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)
    # Official convention: entry i is where view 0's pixels have gone at the time of view i.
    flow = torch.arange(frames).double()[None, :, None, None, None] * step.expand(1, 1, height, width, 3)
    identity = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64).expand(1, frames, 4)
    mask = torch.ones(1, frames, height, width, dtype=torch.bool)
    return Any4DOutput(
        cam_trans=torch.zeros(1, frames, 3, dtype=torch.float64),
        cam_quats=identity,
        ray_directions=F.normalize(points, dim=-1),
        depth_along_ray=points.norm(dim=-1, keepdim=True),
        pts3d_cam=points,
        pts3d=points,
        scene_flow=flow,
        metric_scaling_factor=torch.ones(1, frames, 1, dtype=torch.float64),
        conf=torch.ones(1, frames, height, width, dtype=torch.float64),
        non_ambiguous_mask=mask,
        non_ambiguous_mask_logits=mask.double(),
        flow_grid="reference",
    )


def test_reference_flow_is_carried_to_own_pixels() -> None:
    scene = to_scene_geometry(translating_plane(5))
    step = torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)
    assert scene.flow_valid[0, 0].all()
    torch.testing.assert_close(
        scene.scene_flow[scene.flow_valid], step.expand(int(scene.flow_valid.sum()), 3), rtol=0, atol=1e-12
    )
    # After four steps of a quarter pixel the leftmost column sees what view 0 never saw.
    assert not scene.flow_valid[0, 4, :, 0].any()
    assert scene.flow_valid[0, 4, :, 1:].all()
    assert scene.scene_flow[~scene.flow_valid].abs().max() == 0


def test_reference_flow_of_hidden_points_is_dropped() -> None:
    output = translating_plane(3)
    near = output.pts3d_cam.clone()
    near[:, 1:, :, :6] *= 0.5  # something else stands before the left half from view 1 on
    distance = near.norm(dim=-1, keepdim=True)
    scene = to_scene_geometry(replace(output, pts3d_cam=near, depth_along_ray=distance))
    assert not scene.flow_valid[0, 1, :, :6].any()
    assert scene.flow_valid[0, 1, :, 7:].all()


@pytest.mark.parametrize("frames", [[2], [4, 0], [1, 1]])
def test_flow_of_some_frames_needs_their_neighbours_only(frames: list[int]) -> None:
    output = translating_plane(5)
    whole = to_scene_geometry(output)
    steps = FlowSteps.of(torch.tensor(frames), count=5)
    needed = steps.needed()
    assert len(needed) < 5
    dense = ("ray_directions", "depth_along_ray", "pts3d_cam", "pts3d", "scene_flow", "conf")
    masks = ("non_ambiguous_mask", "non_ambiguous_mask_logits")
    part = replace(output, **{name: getattr(output, name)[:, needed] for name in (*dense, *masks)})
    reference = to_decoded_frames(part, frames=needed).scene
    steps = steps.among(needed)
    scene = with_own_flow(reference.map(lambda tensor: tensor[:, steps.own]), reference=reference, steps=steps)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(scene, name), getattr(whole, name)[:, frames], msg=name)


def test_frames_are_worked_on_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    output = translating_plane(5)
    whole = to_scene_geometry(output)
    monkeypatch.setattr(any4d_adapter, "PIXELS_AT_ONCE", 2 * 8 * 12)
    part = to_scene_geometry(output)
    for name in whole.__dataclass_fields__:
        assert torch.equal(getattr(part, name), getattr(whole, name)), name


def test_one_reference_view_has_no_flow() -> None:
    assert not to_scene_geometry(translating_plane(1)).flow_valid.any()


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_lengths_follow_the_scale_of_the_output(scale: float) -> None:
    output = as_any4d(exact_scene())
    larger = replace(
        output,
        cam_trans=output.cam_trans * scale,
        pts3d_cam=output.pts3d_cam * scale,
        scene_flow=output.scene_flow * scale,
    )
    one, other = to_scene_geometry(output), to_scene_geometry(larger)
    torch.testing.assert_close(other.points, one.points * scale)
    torch.testing.assert_close(other.depth, one.depth * scale)
    torch.testing.assert_close(other.intrinsics, one.intrinsics)
