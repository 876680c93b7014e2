"""The classifier of camera moves. Oracles: exact trajectories of the world by the hundred, with and without jitter,
and the frames and units that a trajectory's name must not depend on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from vggrpo.evaluation.camera_moves import STILL, camera_motion, classify_camera_moves, scene_depth_of
from vggrpo.geometry import so3
from vggrpo.worlds import make_clip, vocabulary
from vggrpo.worlds.cameras import LOOK_AT
from vggrpo.worlds.scenes import SceneSpec, sample_scene

SEEDS = range(400)


@dataclass(frozen=True)
class Shots:
    """Exact trajectories ``camera_from_world`` [B, N, 4, 4] of many scenes, with their truth; nothing is rendered."""

    names: tuple[str, ...]
    cameras: Tensor
    depth: Tensor


def shoot(scenes: Sequence[SceneSpec], *, num_frames: int = 17) -> Shots:
    placements = [scene.camera.scene_from_camera(num_frames) for scene in scenes]
    cameras = [torch.from_numpy(np.linalg.inv(np.linalg.inv(one[0]) @ one)) for one in placements]
    distances = [math.hypot(scene.camera.distance, scene.camera.height + LOOK_AT[1]) for scene in scenes]
    return Shots(
        names=tuple(scene.camera.name for scene in scenes),
        cameras=torch.stack(cameras),
        depth=torch.tensor(distances, dtype=torch.float64),
    )


@cache
def world_shots(*, jitter: bool, num_frames: int = 17) -> Shots:
    return shoot([sample_scene(seed, jitter=jitter) for seed in SEEDS], num_frames=num_frames)


def share_right(shots: Shots, *, depth_factor: float = 1.0) -> float:
    found = classify_camera_moves(shots.cameras, scene_depth=depth_factor * shots.depth)
    return float(np.mean([one == name for one, name in zip(found, shots.names, strict=True)]))


@cache
def all_moves() -> Shots:
    """One scene of every move."""
    scenes = [sample_scene(seed, jitter=False) for seed in range(100)]
    found = {scene.camera.name: scene for scene in scenes}
    assert set(found) == set(vocabulary.CAMERA_MOVES)
    return shoot([found[name] for name in vocabulary.CAMERA_MOVES])


@pytest.mark.parametrize("jitter", [False, True])
def test_exact_trajectories_are_named_right(jitter: bool) -> None:
    assert share_right(world_shots(jitter=jitter)) >= 0.99


@pytest.mark.parametrize("depth_factor", [0.75, 1.3])
def test_a_rough_scene_depth_is_enough(depth_factor: float) -> None:
    assert share_right(world_shots(jitter=True), depth_factor=depth_factor) >= 0.99


def test_short_clips_are_named_right_too() -> None:
    assert share_right(world_shots(jitter=False, num_frames=5)) >= 0.99


def test_jitter_alone_is_no_move_and_no_move_is_jitter() -> None:
    """Every moving shot lies well above the threshold. A wide sway can pass it, which must stay rare."""
    shots = world_shots(jitter=True)
    motion = camera_motion(shots.cameras, scene_depth=shots.depth)
    size = torch.cat([motion.travel, motion.turn], dim=-1).norm(dim=-1)
    stands = torch.tensor([name == "static" for name in shots.names])
    assert float(size[stands].median()) < 0.6 * STILL
    assert float((size[stands] > STILL).double().mean()) < 0.05
    assert float(size[~stands].min()) > 1.25 * STILL


def test_the_world_frame_and_the_unit_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    shots = all_moves()
    world = torch.eye(4, dtype=torch.float64)
    world[:3, :3] = so3.exp(torch.randn(3, generator=generator, dtype=torch.float64))
    world[:3, 3] = torch.randn(3, generator=generator, dtype=torch.float64)
    scaled = shots.cameras.clone()
    scaled[..., :3, 3] *= 7.3
    reference = camera_motion(shots.cameras, scene_depth=shots.depth)
    for cameras, depth in ((shots.cameras @ world, shots.depth), (scaled, 7.3 * shots.depth)):
        other = camera_motion(cameras, scene_depth=depth)
        torch.testing.assert_close(other.travel, reference.travel, atol=1e-9, rtol=0)
        torch.testing.assert_close(other.turn, reference.turn, atol=1e-9, rtol=0)
        assert classify_camera_moves(cameras, scene_depth=depth) == list(shots.names)


def test_played_backwards_every_move_has_the_opposite_name() -> None:
    opposite = {"left": "right", "right": "left", "in": "out", "out": "in", "up": "down", "down": "up"}
    shots = all_moves()
    expected = [" ".join(opposite.get(word, word) for word in name.split()) for name in shots.names]
    assert classify_camera_moves(shots.cameras.flip(1), scene_depth=shots.depth) == expected


def test_motion_has_the_size_of_the_move() -> None:
    """Analytic: a truck of 0.9 m past a scene 3 m away, and a pan of 0.3 radians."""
    cameras = torch.eye(4, dtype=torch.float64).repeat(1, 17, 1, 1)
    cameras[0, :, 0, 3] = -torch.linspace(0, 0.9, 17, dtype=torch.float64)
    truck = camera_motion(cameras, scene_depth=torch.tensor([3.0]))
    torch.testing.assert_close(truck.travel[0], torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)
    turned = torch.eye(4, dtype=torch.float64).repeat(1, 17, 1, 1)
    angles = torch.linspace(0, 0.3, 17, dtype=torch.float64)
    vectors = torch.stack([torch.zeros(17), angles, torch.zeros(17)], dim=-1).double()
    turned[0, :, :3, :3] = so3.exp(vectors).transpose(-1, -2)
    pan = camera_motion(turned, scene_depth=torch.tensor([3.0]))
    torch.testing.assert_close(pan.turn[0], torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)
    assert classify_camera_moves(torch.cat([cameras, turned]), scene_depth=torch.tensor([3.0, 3.0])) == [
        "truck right",
        "pan right",
    ]


def test_scene_depth_is_the_median_of_valid_pixels() -> None:
    clip = make_clip(3, num_frames=2, height=16, width=16)
    scene = clip.geometry.to_scene()
    expected = np.sort(clip.geometry.depth[clip.geometry.valid])
    # torch takes the lower of the two middle ones.
    assert scene_depth_of(scene).tolist() == [pytest.approx(expected[(len(expected) - 1) // 2])]
    nowhere = scene.map(lambda tensor: torch.zeros_like(tensor) if tensor.dtype == torch.bool else tensor)
    assert scene_depth_of(nowhere).isfinite().all()
