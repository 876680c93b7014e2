"""What tokens are told about correspondences agrees with the world's exact geometry, and only training sees it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vggrpo.geometry.projection import project, transform_points
from vggrpo.latent_geometry.foundation.any4d import Any4D, FrameSelection
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG, TINY
from vggrpo.latent_geometry.foundation.any4d_start import carry_the_difference, matching_layers
from vggrpo.latent_geometry.foundation.vit import SelfAttention
from vggrpo.pretraining.data import select_frames
from vggrpo.pretraining.geometry_batches import GeometryBatch, make_batch, mirror
from vggrpo.pretraining.geometry_matching import MatchingTeacher, bilinear_target, token_truth
from vggrpo.worlds import make_clip, sample_scene

NO_FRAMES = np.array([], dtype=np.int64)
FRAMES = np.array([2, 6, 12])


@pytest.fixture(scope="module")
def batch() -> GeometryBatch:
    return batch_of((0, 3, 5), frames=FRAMES)


def batch_of(seeds: tuple[int, ...], *, frames: np.ndarray) -> GeometryBatch:
    clips = [select_frames(make_clip(seed, height=64, width=64, jitter=True), frames) for seed in seeds]
    scenes = [sample_scene(seed, jitter=True) for seed in seeds]
    return make_batch(clips, scenes=scenes, frames=np.tile(frames, (len(seeds), 1)), dense=NO_FRAMES, total=17)


def test_places_are_projections_into_the_reference_frame(batch: GeometryBatch) -> None:
    truth = token_truth(batch, patch_size=16)
    points = batch.first_points[:, :, 8::16, 8::16].flatten(1, 3)
    seen = transform_points(batch.truth.camera_from_world[:, 0], points)
    pixels = project(seen, batch.truth.intrinsics[:, 0]).pixels
    places = truth.place.flatten(1, 2) * 16
    chosen = truth.seen.flatten(1)
    assert chosen.sum() > 40
    torch.testing.assert_close(places[chosen], pixels[chosen], rtol=0, atol=1e-3)


def test_what_stands_has_not_moved_and_what_moves_has(batch: GeometryBatch) -> None:
    moved = (batch.first_points - batch.truth.points).norm(dim=-1)
    valid = batch.truth.valid
    assert moved[valid & ~batch.moving].max() < 1e-5
    later = (valid & batch.moving)[:, 1:]
    assert later.sum() > 100
    assert moved[:, 1:][later].mean() > 0.1


@pytest.mark.parametrize("frame", [0, 5, 15])
def test_one_frame_later_an_object_has_moved_by_its_scene_flow(frame: int) -> None:
    """A second route: the renderer's flow, which knows nothing of motions between any two frames."""
    batch = batch_of((0, 3, 5), frames=np.array([frame + 1, frame]))
    expected = (batch.truth.points + batch.truth.scene_flow)[:, 1]
    valid = batch.truth.valid[:, 1]
    assert (valid & batch.moving[:, 1]).sum() > 100
    torch.testing.assert_close(batch.first_points[:, 1][valid], expected[valid], rtol=0, atol=1e-4)


def test_in_the_reference_frame_every_token_lies_where_it_is(batch: GeometryBatch) -> None:
    truth = token_truth(batch, patch_size=16)
    seen = truth.seen[:, 0]
    assert torch.equal(seen, batch.truth.valid[:, 0, 8::16, 8::16].flatten(1))
    torch.testing.assert_close(truth.place[:, 0][seen], truth.own.expand(3, -1, -1)[seen], rtol=0, atol=1e-4)


def test_seen_means_the_same_colour(batch: GeometryBatch) -> None:
    """A second route: what is matched looks alike, and more alike than what stays at the same place."""
    truth = token_truth(batch, patch_size=16)
    middle = batch.images[:, 1:, :, 8::16, 8::16].permute(0, 1, 3, 4, 2).flatten(2, 3)
    grid = (truth.place[:, 1:] / 4 * 2 - 1).flatten(1, 2)[:, :, None]
    matched = F.grid_sample(batch.images[:, 0], grid, align_corners=False)[..., 0].transpose(1, 2).unflatten(1, (2, -1))
    unmoved = batch.images[:, :1, :, 8::16, 8::16].permute(0, 1, 3, 4, 2).flatten(2, 3)
    seen = truth.seen[:, 1:]
    assert (matched - middle)[seen].abs().mean() < 0.6 * (unmoved - middle)[seen].abs().mean()


def test_in_a_mirror_places_are_mirrored(batch: GeometryBatch) -> None:
    """Tokens are looked up at the pixel right of their middle, so exactly half a pixel lies between the two."""
    truth, mirrored = token_truth(batch, patch_size=16), token_truth(mirror(batch), patch_size=16)
    points = batch.first_points.flip(3) * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(mirror(batch).first_points, points)
    both = truth.seen.unflatten(-1, (4, 4)).flip(-1).flatten(-2) & mirrored.seen
    assert both.sum() > 40
    expected = truth.place.unflatten(2, (4, 4)).flip(3).flatten(2, 3)
    expected = torch.stack([4.0 - expected[..., 0], expected[..., 1]], dim=-1)
    assert (mirrored.place - expected)[both].abs().median() < 1 / 16


def test_hidden_points_are_not_matched(batch: GeometryBatch) -> None:
    depth = batch.truth.depth.clone()
    depth[:, 0] *= 0.01
    hidden = replace(batch, truth=replace(batch.truth, depth=depth))
    assert not token_truth(hidden, patch_size=16).seen[:, 1:].any()


def test_bilinear_weights_average_to_the_place() -> None:
    place = 0.5 + 3 * torch.rand(1, 2, 50, 2, generator=torch.Generator().manual_seed(0))
    target = bilinear_target(place, grid=(4, 4))
    centres = torch.stack(torch.meshgrid(torch.arange(4) + 0.5, torch.arange(4) + 0.5, indexing="xy"), -1).flatten(0, 1)
    torch.testing.assert_close(target.sum(-1), torch.ones(1, 2, 50))
    torch.testing.assert_close(target @ centres, place)


def test_the_teacher_is_no_part_of_the_model(batch: GeometryBatch) -> None:
    torch.manual_seed(0)
    model = Any4D(DEBUG)
    names = set(model.state_dict())
    teacher = MatchingTeacher(model)
    assert set(model.state_dict()) == names
    assert all(name.split(".")[0] in {"displacement", "pose", "flow"} for name in teacher.state_dict())
    output = model(batch.images, selection=FrameSelection(offsets=batch.offsets, dense=batch.dense))
    plain = Any4D(DEBUG)
    plain.load_state_dict(model.state_dict())
    again = plain(batch.images, selection=FrameSelection(offsets=batch.offsets, dense=batch.dense))
    assert torch.equal(output.cam_trans, again.cam_trans)


def test_losses_teach_the_layers_they_are_meant_for(batch: GeometryBatch) -> None:
    torch.manual_seed(0)
    model = Any4D(replace(TINY, sharing_depth=6, encoder_depth=1))
    teacher = MatchingTeacher(model)
    model(batch.images, selection=FrameSelection(offsets=batch.offsets, dense=batch.dense))
    losses = teacher(batch)
    assert set(losses) == {"matching", "displacement", "token_pose", "token_flow"}
    losses["matching"].backward()
    watched = model.info_sharing.self_attention_blocks[2].get_submodule("attn.qkv")
    gradient = watched.get_parameter("weight").grad
    dim = TINY.sharing_dim
    assert gradient is not None
    query, key, value = (gradient[part * dim : (part + 1) * dim] for part in range(3))
    supervised = slice(0, 128)
    assert query[supervised].abs().max() > 0
    assert key[supervised].abs().max() > 0
    assert value.abs().max() == 0
    assert query[128:].abs().max() == 0


def test_a_token_that_stays_attends_to_itself(batch: GeometryBatch) -> None:
    own = token_truth(batch, patch_size=16).own
    # The middle pixel of 16 lies half a pixel behind the token's centre.
    centres = own - 0.5 / 16
    target = bilinear_target(centres[None, None], grid=(4, 4))
    torch.testing.assert_close(target[0, 0], torch.eye(16))


@torch.no_grad()
def test_at_the_start_matching_tokens_cancel() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(32, num_heads=2)
    carry_the_difference(attention)
    attention.qkv.bias.zero_()
    token = torch.randn(1, 1, 32)
    torch.testing.assert_close(attention(token.expand(1, 5, 32)), -0.5 * token.expand(1, 5, 32))


def test_matching_layers_are_global_and_in_the_middle() -> None:
    assert matching_layers(8) == (2, 4)
    assert matching_layers(2) == (0,)
