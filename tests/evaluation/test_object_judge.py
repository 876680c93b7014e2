"""The judge of objects. Oracles: the exact masks of the world and the colours of the pixels under them, hand-made
shares, and a short training that must learn its clips by heart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vggrpo.evaluation.object_accuracy import ClipReading, read_clip, summarise, true_visible_pixels
from vggrpo.evaluation.object_judge import (
    CELL,
    KINDS,
    VISIBLE_SHARE,
    JudgeConfig,
    ObjectJudge,
    Sighting,
    find_objects,
    kinds_seen,
)
from vggrpo.pretraining import judge as training_code
from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.judge import JudgeTraining, cell_shares, draw_batch, pretrain_judge, soften
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig, Step
from vggrpo.worlds import FIRST_TRAINING_SEED, make_clip, vocabulary
from vggrpo.worlds.scenes import sample_scene

SMALL = JudgeTraining(
    judge=JudgeConfig(width=8, dilations=(1, 2)),
    loop=LoopConfig(steps=4, learning_rate=2e-3, warmup_steps=1, ema_decay=0.5, checkpoint_every=2),
    clips=2,
    clips_at_start=2,
    frames_a_step=4,
    num_frames=3,
    size=64,
    held_out_clips=2,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "judge-clips"
    monkeypatch.setattr(training_code, "default_cache", lambda: folder)
    return folder


def pixels_of(**counts: float) -> torch.Tensor:
    """Visible pixels of two equal frames, by names such as ``red_cube``."""
    pixels = torch.zeros(2, len(KINDS))
    for name, count in counts.items():
        colour, shape = name.split("_")
        pixels[:, KINDS.index((colour, shape))] = count
    return pixels


# --- Truth -----------------------------------------------------------------------------------------------------------


def test_masks_lie_on_pixels_of_their_colour() -> None:
    """Second route: of all colour words, the one under the mask is the nearest in hue to the pixels' median."""
    checked = 0
    for seed in range(12):
        clip = make_clip(seed, num_frames=1)
        for (colour, _), mask in true_visible_pixels(clip.object_id, seed=seed).items():
            if mask.sum() < 150 or colour in {"white", "black"}:
                continue
            seen = np.median(clip.rgb[mask].astype(float), axis=0)
            seen -= seen.mean()
            palette = {name: np.array(rgb) - np.mean(rgb) for name, rgb in vocabulary.COLOURS.items()}
            cosine = {
                name: seen @ value / (np.linalg.norm(seen) * np.linalg.norm(value))
                for name, value in palette.items()
                if name not in {"white", "black"}
            }
            assert max(cosine, key=lambda name: cosine[name]) == colour
            checked += 1
    assert checked > 10


def test_cell_shares_count_the_masks_pixels() -> None:
    seed = next(seed for seed in range(50) if len(sample_scene(seed).objects) == 2)
    clip = make_clip(seed, num_frames=1, height=64, width=64)
    shares = cell_shares(clip.object_id[0], seed=seed)
    assert shares.shape == (1 + len(KINDS), 8, 8)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(8, 8))
    for kind, mask in true_visible_pixels(clip.object_id, seed=seed).items():
        assert float(shares[1 + KINDS.index(kind)].sum()) * CELL**2 == pytest.approx(mask.sum())
    assert float(shares[0].sum()) * CELL**2 == pytest.approx((clip.object_id < 2).sum())


# --- Deciding --------------------------------------------------------------------------------------------------------


def test_visible_pixels_add_up_the_shares() -> None:
    """A judge that answers the same everywhere: its shares times the frame's pixels."""
    judge = ObjectJudge(JudgeConfig(width=8, dilations=(1,)))
    torch.nn.init.zeros_(judge.classes.weight)
    torch.nn.init.zeros_(judge.classes.bias)
    red, cube = 1 + list(vocabulary.COLOURS).index("red"), 1 + len(vocabulary.COLOURS) + vocabulary.SHAPES.index("cube")
    judge.classes.bias.data[red] = np.log(5.0)
    judge.classes.bias.data[cube] = np.log(2.0)
    pixels = judge.visible_pixels(torch.rand(2, 3, 32, 48))
    # Nothing 1, other objects 1 each, red ones 5, cubes 2, the red cube both.
    odds = {kind: (5.0 if kind[0] == "red" else 1.0) * (2.0 if kind[1] == "cube" else 1.0) for kind in KINDS}
    expected = torch.tensor([32 * 48 * odds[kind] / (1.0 + sum(odds.values())) for kind in KINDS])
    torch.testing.assert_close(pixels, expected.expand(2, -1))


def test_objects_are_found_by_area_and_by_the_shape_of_most_of_it() -> None:
    frame_pixels = 128 * 128
    enough = VISIBLE_SHARE * frame_pixels
    pixels = pixels_of(red_cube=enough, blue_cone=600, blue_sphere=400, green_cone=0.9 * enough)
    named = [("red", "cube"), ("red", "cone"), ("blue", "cone"), ("blue", "sphere"), ("green", "cone")]
    found = find_objects(pixels, named=named, frame_pixels=frame_pixels)
    assert [(one.colour, one.shape) for one in found] == [
        (True, True),
        (True, False),
        (True, True),
        (True, False),
        (False, False),
    ]
    assert [one.whole for one in found] == [True, False, True, False, False]
    assert kinds_seen(pixels, frame_pixels=frame_pixels) == {("red", "cube"), ("blue", "cone")}


def test_a_clip_is_judged_by_the_mean_of_its_frames() -> None:
    pixels = pixels_of(red_cube=150)
    pixels[1] = 0
    assert find_objects(pixels, named=[("red", "cube")], frame_pixels=128 * 128) == [Sighting(colour=True, shape=True)]
    assert not find_objects(pixels / 2, named=[("red", "cube")], frame_pixels=128 * 128)[0].colour


def test_recall_and_precision_count_objects() -> None:
    red, blue, green = ("red", "cube"), ("blue", "cone"), ("green", "cone")
    readings = [
        ClipReading(seen=frozenset({red, green}), visible=frozenset({red, blue})),
        ClipReading(seen=frozenset({blue}), visible=frozenset({blue})),
    ]
    found = summarise(readings)
    assert (found.recall, found.precision, found.objects, found.clips) == (2 / 3, 2 / 3, 3, 2)
    nothing = summarise([ClipReading(seen=frozenset(), visible=frozenset())])
    assert (nothing.recall, nothing.precision) == (None, None)


# --- Training --------------------------------------------------------------------------------------------------------


def test_softening_loses_detail_and_keeps_the_scene() -> None:
    image = torch.from_numpy(make_clip(1, num_frames=1).rgb[0]).permute(2, 0, 1).float() / 255.0
    for seed in range(8):
        softened = soften(image, rng=np.random.default_rng(seed), generator=torch.Generator().manual_seed(seed))
        assert softened.shape == image.shape
        assert 0.0 <= float(softened.min()) <= float(softened.max()) <= 1.0
        assert 0.0 < float((softened - image).abs().mean()) < 0.12


def test_a_step_draws_from_its_own_randomness(own_cache: Path) -> None:
    cache = ClipCache(folder=own_cache, num_frames=SMALL.num_frames, size=SMALL.size)
    batches = [draw_batch(Step.of(index, SMALL.loop), SMALL, cache=cache) for index in (3, 3, 4)]
    torch.testing.assert_close(batches[0].images, batches[1].images, rtol=0, atol=0)
    torch.testing.assert_close(batches[0].shares, batches[1].shares, rtol=0, atol=0)
    assert not torch.equal(batches[0].images, batches[2].images)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    pretrain_judge(SMALL, tmp_path / "whole")
    first = tmp_path / "resumed"
    pretrain_judge(SMALL, first)
    # As if it had been killed after the checkpoint of step 2.
    for path in [first / "checkpoints" / "step-000004", first / "model"]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    pretrain_judge(SMALL, first, resume=True)
    assert (first / "model/model.safetensors").read_bytes() == (tmp_path / "whole/model/model.safetensors").read_bytes()
    report = json.loads((first / "judge.json").read_text())
    assert set(report["held_out"]) == {"clips", "rendered", "softened"}
    assert report["held_out"]["rendered"]["clips"] == 2


def test_training_learns_its_clips_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """Two clips, no softening: colour and shape of every visible object, and nothing that is not there."""
    monkeypatch.setattr(training_code, "soften", lambda image, **_: image)
    loop = LoopConfig(steps=100, learning_rate=8e-3, warmup_steps=5, ema_decay=0.8, checkpoint_every=200)
    pretrain_judge(replace(SMALL, judge=JudgeConfig(width=16, dilations=(1, 2)), loop=loop), tmp_path / "run")
    judge = ObjectJudge.load(tmp_path / "run" / "model")
    cache = ClipCache(folder=own_cache, num_frames=SMALL.num_frames, size=SMALL.size)
    readings = []
    for seed in (FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + 1):
        clip = cache.clip(seed)
        video = torch.from_numpy(clip.rgb).permute(0, 3, 1, 2).float() / 255.0
        readings.append(read_clip(judge, video, object_id=clip.object_id, seed=seed))
    assert all(reading.visible for reading in readings)
    assert [reading.seen for reading in readings] == [reading.visible for reading in readings]


# --- Files -----------------------------------------------------------------------------------------------------------


def test_the_shipped_size_is_below_a_megabyte_and_reads_back(tmp_path: Path) -> None:
    judge = ObjectJudge(JudgeTraining().judge)
    judge.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ObjectJudge.load(tmp_path)(images), judge(images), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other sizes", "no folder"])
def test_what_is_no_judge_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    ObjectJudge(JudgeConfig(width=8, dilations=(1,))).save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "other sizes":
        config.write_text(config.read_text().replace("8", "16"))
    folder = tmp_path / "elsewhere" if damage == "no folder" else tmp_path
    with pytest.raises(UserError, match="pretrain judge") as error:
        ObjectJudge.load(folder)
    assert "\n" not in str(error.value)
