"""The report as a whole: its JSON form, the guards, batches and precision."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.rewards.analytic import MOVING, STANDING, make_scene, move_world, scale_frame_depth, truck_path, yaw
from vggrpo.rewards import RewardReport, camera_path_length, dynamic_degree, judge, moving_share
from vggrpo.rewards.guards import CHORD_FRAMES


def test_json_has_the_contracts_form_and_survives_strict_json() -> None:
    report = judge(make_scene()).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == ["motion_smoothness", "geometry_consistency", "scene_smoothness", "guards"]
    geometry = report["geometry_consistency"]
    assert isinstance(geometry, dict)
    assert list(geometry) == ["value", "per_frame", "worst_frames"]
    assert len(geometry["per_frame"]) == 9
    assert len(geometry["worst_frames"]) == 3


def test_what_cannot_be_judged_is_null_with_a_reason() -> None:
    scene = make_scene()
    report = judge(replace(scene, valid=torch.zeros_like(scene.valid))).to_json()
    json.dumps(report, allow_nan=False)
    for name in ("motion_smoothness", "geometry_consistency", "scene_smoothness"):
        entry = report[name]
        assert isinstance(entry, dict)
        assert entry["value"] is None
        assert entry["per_frame"] == [None] * 9
        assert "valid depth" in entry["reason"]
        assert entry.get("worst_frames", []) == []
    assert report["guards"] == {"camera_path_length": None, "dynamic_degree": None, "moving_share": None}


def test_a_batch_scores_as_its_videos_alone() -> None:
    videos = [make_scene(), scale_frame_depth(make_scene(spheres=(*STANDING, MOVING)), 3, 1.1), make_scene(spheres=())]
    fields = ("camera_from_world", "intrinsics", "depth", "points", "scene_flow", "confidence", "valid", "flow_valid")
    batch = replace(videos[0], **{f: torch.cat([getattr(video, f) for video in videos]) for f in fields})
    together = judge(batch)
    for index, video in enumerate(videos):
        assert together.to_json(index) == judge(video).to_json()


def test_float32_is_precise_enough() -> None:
    exact, rounded = judge(make_scene()), judge(make_scene(dtype=torch.float32))
    for name, term in exact.terms.items():
        assert rounded.terms[name].value.item() == pytest.approx(term.value.item(), abs=1e-4)
        assert rounded.terms[name].value.dtype == torch.float32


def test_path_length_is_steps_over_scene_scale() -> None:
    scene = make_scene(truck_path(9, step=0.1, turn=0.0))
    scale = scene.depth.log().mean().exp().item()
    assert camera_path_length(scene).item() == pytest.approx(8 * 0.1 * np.hypot(1.0, 0.5) / scale)


def test_shaking_is_no_travel() -> None:
    """A sway whose period is the chord's leaves the path's length alone; summed frame by frame it would triple it."""
    calm = truck_path(17, step=0.1, turn=0.0)
    shaken = calm.copy()
    shaken[:, 1, 3] += 0.5 * np.sin(2.0 * np.pi * np.arange(17) / CHORD_FRAMES)
    frame_by_frame = [np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1).sum() for path in (calm, shaken)]
    assert frame_by_frame[1] > 2.0 * frame_by_frame[0]
    lengths = [camera_path_length(make_scene(path)) * scale_of(path) for path in (calm, shaken)]
    assert lengths[1].item() == pytest.approx(lengths[0].item())


def scale_of(path: np.ndarray) -> float:
    """Scene scale of the room seen from ``path``."""
    return make_scene(path).depth.log().mean().exp().item()


def test_guards_tell_a_frozen_video_from_a_still_camera_before_a_moving_object() -> None:
    still = np.tile(np.eye(4), (9, 1, 1))
    frozen, alive = make_scene(still), make_scene(still, spheres=(*STANDING, MOVING))
    assert camera_path_length(frozen).item() == camera_path_length(alive).item() == 0.0
    assert dynamic_degree(frozen).item() == pytest.approx(0.0, abs=1e-9)
    assert moving_share(frozen, static_threshold=0.02).item() == 0.0
    # The sphere moves 0.2 a frame at a depth of 3 to 3.5: 60 * 0.2 / 3.2 pixels of 64.
    assert dynamic_degree(alive).item() == pytest.approx(60 * 0.2 / 3.2 / 64, rel=0.1)
    share = (alive.scene_flow.norm(dim=-1) > 0).double().mean().item()
    assert moving_share(alive, static_threshold=0.02).item() == pytest.approx(share)


def test_guards_do_not_depend_on_frame_or_unit() -> None:
    scene = make_scene(spheres=(*STANDING, MOVING))
    moved = move_world(scene, rotation=yaw(0.7), translation=np.array([3.0, -2.0, 5.0]), scale=40.0)
    first, second = judge(scene).guards, judge(moved).guards
    for name in ("camera_path_length", "dynamic_degree", "moving_share"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree() -> None:
    scene = scale_frame_depth(make_scene(spheres=(*STANDING, MOVING), dtype=torch.float32), 4, 1.1)
    on_cpu: RewardReport = judge(scene)
    on_gpu: RewardReport = judge(scene.map(lambda tensor: tensor.cuda()))
    for name, term in on_cpu.terms.items():
        assert on_gpu.terms[name].value.item() == pytest.approx(term.value.item(), rel=1e-3, abs=1e-4)
