"""``pretrain geometry``: batches keep the truth, the truth costs nothing, a resumed run is the uninterrupted one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from vggrpo.geometry import so3
from vggrpo.geometry.projection import project, rigid_inverse, transform_points
from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.latent_geometry.foundation.any4d import Any4D, FrameSelection
from vggrpo.latent_geometry.foundation.any4d_adapter import to_scene_geometry
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG, TINY
from vggrpo.latent_geometry.foundation.any4d_output import Any4DOutput
from vggrpo.latent_geometry.foundation.any4d_start import start_from_scratch
from vggrpo.latent_geometry.foundation.registry import load_geometry, save_geometry
from vggrpo.latent_geometry.metrics import combine, geometry_metrics
from vggrpo.pretraining.data import ClipCache, select_frames
from vggrpo.pretraining.geometry import DEBUG_TRAINING, draw_batch, evaluate_geometry_model, pretrain_geometry
from vggrpo.pretraining.geometry_batches import (
    GeometryBatch,
    choose_frames,
    choose_ordered,
    known_flow,
    make_batch,
    mirror,
)
from vggrpo.pretraining.geometry_losses import (
    MEAN_ROTATIONS,
    MEDIAN_ROTATIONS,
    GeometryLossWeights,
    RotationLoss,
    geometry_losses,
    pose_losses,
    rays_of,
)
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import Step
from vggrpo.types import WorldClip
from vggrpo.worlds import make_clip, sample_scene


@pytest.fixture(scope="module")
def clips() -> list[WorldClip]:
    return [make_clip(seed, height=32, width=32, jitter=True) for seed in range(3)]


def batch_of(clips: list[WorldClip], *, frames: np.ndarray, dense: np.ndarray) -> GeometryBatch:
    chosen = [select_frames(clip, frames) for clip in clips]
    scenes = [sample_scene(seed, jitter=True) for seed in range(len(clips))]
    return make_batch(chosen, scenes=scenes, frames=np.tile(frames, (len(clips), 1)), dense=dense, total=17)


def perfect_output(batch: GeometryBatch) -> Any4DOutput:
    """What Any4D would return if it knew the truth (metric factor included)."""
    dense = batch.truth.map(lambda tensor: tensor.index_select(1, batch.dense))
    world_from_camera = rigid_inverse(batch.truth.camera_from_world)
    rays = rays_of(dense)
    # Pixels without geometry need some positive distance; no loss looks at them.
    distance = torch.where(dense.valid, dense.depth / rays[..., 2], 1.0)[..., None]
    scale = scene_scale(batch.truth.depth, valid=batch.truth.valid)
    return Any4DOutput(
        cam_trans=world_from_camera[..., :3, 3],
        cam_quats=so3.quaternion_from_matrix(world_from_camera[..., :3, :3]),
        ray_directions=rays,
        depth_along_ray=distance,
        pts3d_cam=rays * distance,
        pts3d=dense.points,
        scene_flow=dense.scene_flow,
        metric_scaling_factor=scale[:, None, None].expand(-1, batch.images.shape[1], 1),
        conf=torch.full_like(dense.depth, 1e4),
        non_ambiguous_mask=dense.valid,
        non_ambiguous_mask_logits=torch.where(dense.valid, 50.0, -50.0),
        flow_grid="self",
    )


def test_frames_are_sorted_distinct_and_inside() -> None:
    for seed in range(50):
        frames = choose_frames(np.random.default_rng(seed), total=17, count=5)
        assert len(set(frames)) == 5
        assert list(frames) == sorted(frames)
        assert frames.min() >= 0
        assert frames.max() <= 16


def test_flow_is_known_where_the_next_frame_is_seen() -> None:
    assert known_flow(np.array([2, 3, 7]), total=17).tolist() == [True, False, False]
    assert known_flow(np.array([0, 15, 16]), total=17).tolist() == [False, True, True]
    assert known_flow(np.array([0, 16]), total=17).tolist() == [False, False]
    assert known_flow(np.array([4, 3, 2]), total=17).tolist() == [False, False, False]


def test_frames_run_both_ways() -> None:
    drawn = [choose_ordered(np.random.default_rng(seed), total=17, count=3) for seed in range(40)]
    forwards = [bool((np.diff(frames) > 0).all()) for frames in drawn]
    backwards = [bool((np.diff(frames) < 0).all()) for frames in drawn]
    assert all(one != other for one, other in zip(forwards, backwards, strict=True))
    assert 10 < sum(forwards) < 30


def test_batch_is_anchored_on_its_first_frame_and_still_consistent(clips: list[WorldClip]) -> None:
    batch = batch_of(clips[:2], frames=np.array([3, 4, 9]), dense=np.array([0, 2]))
    assert_consistent(batch)
    assert batch.offsets.tolist() == [[0, 1, 6], [0, 1, 6]]
    assert torch.equal(batch.images[0, 1].permute(1, 2, 0) * 255, torch.from_numpy(clips[0].rgb[4]).float())


def test_backwards_the_last_frame_is_the_world(clips: list[WorldClip]) -> None:
    batch = batch_of(clips[:2], frames=np.array([9, 4, 3]), dense=np.array([], dtype=np.int64))
    assert_consistent(batch)
    assert batch.offsets.tolist() == [[0, 5, 6], [0, 5, 6]]


def test_a_mirrored_batch_is_a_world_of_its_own(clips: list[WorldClip]) -> None:
    batch = batch_of(clips[:2], frames=np.array([3, 4, 9]), dense=np.array([0, 2]))
    mirrored = mirror(batch)
    assert_consistent(mirrored)
    assert torch.equal(mirrored.images[..., 0], batch.images[..., -1])
    assert mirrored.truth.scene_flow[..., 0].sum() == pytest.approx(-float(batch.truth.scene_flow[..., 0].sum()))
    again = mirror(mirrored)
    torch.testing.assert_close(again.truth.camera_from_world, batch.truth.camera_from_world)
    torch.testing.assert_close(again.truth.points, batch.truth.points)


def assert_consistent(batch: GeometryBatch) -> None:
    """The first camera is the world, and every point projects onto its own pixel at its own depth."""
    truth = batch.truth
    torch.testing.assert_close(truth.camera_from_world[:, 0], torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-6)
    seen = transform_points(truth.camera_from_world.flatten(0, 1), truth.points.flatten(2, 3).flatten(0, 1))
    projection = project(seen, truth.intrinsics.flatten(0, 1))
    valid = truth.valid.flatten()
    torch.testing.assert_close(projection.depth.flatten()[valid], truth.depth.flatten()[valid], rtol=0, atol=1e-4)
    columns = (torch.arange(32) + 0.5).expand(6, 32, 32).flatten()[valid]
    torch.testing.assert_close(projection.pixels[..., 0].flatten()[valid], columns, rtol=0, atol=2e-3)


def test_flow_turns_with_the_world(clips: list[WorldClip]) -> None:
    clip = clips[0]
    batch = batch_of([clip], frames=np.array([5, 6]), dense=np.array([0]))
    rotation = torch.from_numpy(clip.geometry.camera_from_world[5, :3, :3])
    expected = torch.from_numpy(clip.geometry.scene_flow[5]) @ rotation.T
    torch.testing.assert_close(batch.truth.scene_flow[0, 0], expected, rtol=0, atol=1e-6)


def test_the_truth_costs_nothing(clips: list[WorldClip]) -> None:
    batch = batch_of(clips, frames=np.arange(4, 9), dense=np.array([1, 3]))
    losses = geometry_losses(perfect_output(batch), batch, weights=GeometryLossWeights())
    for name, value in losses.items():
        if name.startswith("loss/") and name != "loss/confidence":
            assert abs(float(value)) < 2e-4, name


@pytest.mark.parametrize(
    ("field", "change", "term"),
    [
        ("cam_trans", 0.5, "translation"),
        ("depth_along_ray", 0.5, "depth"),
        ("pts3d", 0.5, "points"),
        ("scene_flow", 0.5, "flow_static"),
        ("non_ambiguous_mask_logits", 500.0, "mask"),
        ("metric_scaling_factor", 1.0, "scale"),
    ],
)
def test_an_error_shows_in_its_own_term(clips: list[WorldClip], field: str, change: float, term: str) -> None:
    batch = batch_of(clips, frames=np.arange(4, 9), dense=np.array([0, 1]))
    perfect = perfect_output(batch)
    wrong = replace(perfect, **{field: getattr(perfect, field) + change})
    weights = GeometryLossWeights()
    before = geometry_losses(perfect, batch, weights=weights)
    after = geometry_losses(wrong, batch, weights=weights)
    assert after[f"loss/{term}"] > before[f"loss/{term}"] + 0.01


def test_a_perfect_model_has_perfect_metrics(clips: list[WorldClip]) -> None:
    batch = batch_of(clips[:1], frames=np.arange(17), dense=np.arange(17))
    metrics = geometry_metrics(to_scene_geometry(perfect_output(batch)), true=batch.truth, moving=batch.moving)
    assert metrics.clips == 1
    assert metrics.rotation_degrees < 0.05
    assert metrics.translation_direction_degrees < 0.5
    assert metrics.depth_abs_rel_metric < 1e-5
    assert metrics.static_flow_metres < 1e-5
    assert metrics.focal_relative < 1e-4
    assert metrics.mask_iou == 1


def test_known_errors_are_measured() -> None:
    """Depth 10 % too large, no flow where things move, and cameras turned by 2 degrees a frame."""
    # Of a camera that does not turn by itself, so that the turns add up exactly.
    seeds = (seed for seed in range(3, 90) if sample_scene(seed).camera.name.split()[0] in {"truck", "dolly", "crane"})
    clips = [make_clip(seed, height=32, width=32, jitter=False) for seed in list(seeds)[:12]]
    moving = next(clip for clip in clips if clip.moving.any())
    truth = moving.geometry.to_scene()
    turn = so3.exp(torch.deg2rad(torch.tensor([0.0, 2.0, 0.0])) * torch.arange(17)[:, None])
    cameras = truth.camera_from_world.clone()
    cameras[0, :, :3] = turn @ cameras[0, :, :3]
    estimated = replace(
        truth, depth=truth.depth * 1.1, scene_flow=torch.zeros_like(truth.scene_flow), camera_from_world=cameras
    )
    metrics = geometry_metrics(estimated, true=truth, moving=torch.from_numpy(moving.moving)[None])
    assert metrics.depth_abs_rel == pytest.approx(0, abs=1e-5)
    assert metrics.depth_abs_rel_metric == pytest.approx(0.1, abs=1e-5)
    assert metrics.flow_relative_epe == pytest.approx(1, abs=1e-5)
    # Relative turns of all pairs i < j: 2 (j - i) degrees, whose mean over 17 frames is 12.
    assert metrics.rotation_degrees == pytest.approx(12, abs=0.01)


def test_a_camera_believed_at_rest_is_as_bad_as_standing_still(clips: list[WorldClip]) -> None:
    truth = next(
        clip for seed in range(40) if (clip := make_clip(seed, height=32, width=32)).caption.endswith("orbits left")
    )
    scene = truth.geometry.to_scene()
    still = replace(scene, camera_from_world=torch.eye(4).expand_as(scene.camera_from_world))
    moving = torch.from_numpy(truth.moving)[None]
    resting = geometry_metrics(still, true=scene, moving=moving)
    assert resting.position_relative == pytest.approx(1)
    assert resting.rotation_degrees == pytest.approx(resting.still_rotation_degrees)
    right = geometry_metrics(scene, true=scene, moving=moving)
    assert right.position_relative == pytest.approx(0, abs=1e-5)
    # Half of the way at every frame: half of the error.
    world_from_camera = rigid_inverse(scene.camera_from_world)
    world_from_camera[..., :3, 3] *= 0.5
    half = geometry_metrics(
        replace(scene, camera_from_world=rigid_inverse(world_from_camera)), true=scene, moving=moving
    )
    assert half.position_relative == pytest.approx(0.5, abs=1e-5)


def test_combined_metrics_weigh_clips_and_leave_out_what_is_not_measured(clips: list[WorldClip]) -> None:
    truth = clips[0].geometry.to_scene()
    still = torch.zeros_like(truth.valid)
    one = geometry_metrics(truth, true=truth, moving=still)
    assert one.flow_relative_epe != one.flow_relative_epe
    assert one.to_json()["flow_relative_epe"] is None
    first = replace(one, clips=1, rotation_degrees=2.0, flow_relative_epe=0.5)
    second = replace(one, clips=3, rotation_degrees=6.0)
    both = combine([first, second])
    assert (both.clips, both.rotation_degrees, both.flow_relative_epe) == (4, 5.0, 0.5)


@torch.no_grad()
def test_start_is_a_still_camera_that_looks_ahead() -> None:
    torch.manual_seed(0)
    model = Any4D(TINY).eval()
    start_from_scratch(model)
    scene = model.geometry(torch.rand(1, 2, 3, 64, 64))
    assert so3.angle_between(scene.camera_from_world[:, 1, :3, :3], torch.eye(3)[None]).max() < 0.35
    forward = F.normalize(scene.points[0, 0], dim=-1)[..., 2]
    assert forward.min() > 0.9
    assert scene.scene_flow.abs().mean() < 0.2 * scene.depth.mean()


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "clips"


def test_batches_depend_on_seed_and_step_only(cache: Path) -> None:
    clips = ClipCache(folder=cache, size=32)
    one, two, other = (
        draw_batch(Step.of(index, DEBUG_TRAINING.loop), DEBUG_TRAINING, clips=clips) for index in (1, 1, 2)
    )
    assert torch.equal(one.images, two.images)
    assert one.images.shape != other.images.shape or not torch.equal(one.images, other.images)


def test_resumed_pretraining_equals_uninterrupted_pretraining(cache: Path, tmp_path: Path) -> None:
    straight, halved = tmp_path / "straight", tmp_path / "halved"
    assert pretrain_geometry(DEBUG_TRAINING, out=straight, cache=cache).finished
    calls = {"count": 0}

    def interrupted(*args: object, **kwargs: object) -> GeometryBatch:
        calls["count"] += 1
        if calls["count"] > 2:
            raise KeyboardInterrupt
        return draw_batch(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vggrpo.pretraining.geometry.draw_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain_geometry(DEBUG_TRAINING, out=halved, cache=cache)
    assert pretrain_geometry(DEBUG_TRAINING, out=halved, resume=True, cache=cache).finished
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (straight, halved))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    assert load_geometry("any4d", straight / "model").config == DEBUG


def test_a_finished_model_is_trained_further(debug_model: Any4D, tmp_path: Path) -> None:
    """It begins with the finished weights, all of them trained, on whole clips; another model's are refused."""
    save_geometry(debug_model, tmp_path / "model")
    further = DEBUG_TRAINING.going_on(tmp_path / "model")
    began = further.build()
    fresh = DEBUG_TRAINING.build()
    assert {name for name, weight in began.named_parameters() if weight.requires_grad} == {
        name for name, weight in fresh.named_parameters() if weight.requires_grad
    }
    assert began.training
    for name, weight in debug_model.state_dict().items():
        torch.testing.assert_close(began.state_dict()[name], weight, rtol=1e-2, atol=1e-3)  # stored in bfloat16
    assert min(further.whole_steps) > max(DEBUG_TRAINING.whole_steps) / 2
    with pytest.raises(UserError, match="another shape"):
        replace(further, model=TINY).build()


def test_evaluation_reports_every_clip(debug_model: Any4D, clips: list[WorldClip]) -> None:
    report = evaluate_geometry_model(debug_model, clips[:2])
    assert report.clips == 2
    assert 0 <= report.rotation_degrees <= 180


def test_chosen_frames_are_read_as_from_the_whole_clip(cache: Path) -> None:
    clips = ClipCache(folder=cache, size=32)
    frames = np.array([9, 2, 5])
    whole = select_frames(clips.clip(7), frames)
    chosen = clips.clip(7, frames=frames)
    assert np.array_equal(whole.rgb, chosen.rgb)
    assert np.array_equal(whole.moving, chosen.moving)
    for name in ("camera_from_world", "intrinsics", "depth", "points", "valid", "confidence"):
        assert np.array_equal(getattr(whole.geometry, name), getattr(chosen.geometry, name)), name
    # On disk flow is held in half precision.
    np.testing.assert_allclose(whole.geometry.scene_flow, chosen.geometry.scene_flow, atol=1e-3)


def test_a_motion_step_has_no_dense_losses(clips: list[WorldClip], debug_model: Any4D) -> None:
    batch = batch_of(clips, frames=np.array([3, 5]), dense=np.array([], dtype=np.int64))
    output = debug_model(batch.images, selection=FrameSelection(offsets=batch.offsets, dense=batch.dense))
    assert output.depth_along_ray.shape == (3, 0, 32, 32, 1)
    losses = geometry_losses(output, batch, weights=GeometryLossWeights())
    assert "loss/rotation" in losses
    assert "loss/depth" not in losses
    assert torch.isfinite(losses["loss"])


@pytest.mark.parametrize(("loss", "low", "high"), [(MEDIAN_ROTATIONS, 0.0, 0.25), (MEAN_ROTATIONS, 0.3, 0.4)])
def test_one_loss_asks_for_the_median_turn_and_the_other_for_the_mean(
    loss: RotationLoss, low: float, high: float
) -> None:
    """Three cameras of five stand still, two turn alike: the best constant answer, as a share of their turn."""
    turn = so3.exp(torch.tensor([0.0, 0.2, 0.0]))
    standing = torch.eye(3)
    shares = torch.linspace(0, 1, 201)
    answers = so3.exp(shares[:, None] * torch.tensor([0.0, 0.2, 0.0]))
    cost = 3 * loss((answers - standing).flatten(-2)) + 2 * loss((answers - turn).flatten(-2))
    best = float(shares[cost.argmin()])
    assert low <= best <= high


def test_rotations_are_weighed_as_the_second_half_of_a_run_asks(clips: list[WorldClip]) -> None:
    batch = batch_of(clips, frames=np.arange(4, 9), dense=np.array([], dtype=np.int64))
    perfect = perfect_output(batch)
    turned = replace(perfect, cam_quats=F.normalize(perfect.cam_quats + 0.2, dim=-1))
    both = [
        geometry_losses(turned, batch, weights=GeometryLossWeights(), rotations=loss)
        for loss in (MEDIAN_ROTATIONS, MEAN_ROTATIONS)
    ]
    assert both[0]["loss/rotation"] != both[1]["loss/rotation"]
    for name in ("loss/translation", "loss/step_rotation", "loss/scale"):
        assert torch.equal(both[0][name], both[1][name]), name


def test_a_step_over_many_frames_counts_as_much_less(clips: list[WorldClip]) -> None:
    batch = batch_of(clips, frames=np.array([0, 4, 8]), dense=np.array([0]))
    perfect = perfect_output(batch)
    wrong = replace(perfect, cam_trans=perfect.cam_trans + torch.tensor([0.0, 0.1, 0.3])[None, :, None])
    scale = scene_scale(batch.truth.depth, valid=batch.truth.valid)
    factor = wrong.metric_scaling_factor[:, 0, 0]
    near, far = (
        pose_losses(wrong, batch.truth, scale=scale, factor=factor, gaps=torch.full((len(clips), 2), gap))
        for gap in (1, 4)
    )
    assert near["step_translation"] > 0.01
    torch.testing.assert_close(far["step_translation"], near["step_translation"] / 4)
    torch.testing.assert_close(far["translation"], near["translation"])
    whole = geometry_losses(wrong, batch, weights=GeometryLossWeights())
    torch.testing.assert_close(whole["loss/step_translation"], far["step_translation"])
