"""Φ's readings on disk. Oracles: Φ itself within the stated digits, the bits of a second run, sizes of real files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.latent_geometry.samples import DEBUG_CONNECTOR, debug_clips
from vggrpo.latent_geometry.foundation.registry import build_geometry
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latent_geometry.train import AlignmentData, ClipPick, LgmTraining, ReadNow, read_lesson, train_lgm
from vggrpo.pretraining.alignment_data import NamedClips
from vggrpo.pretraining.cache_plan import ClipSizes, plan_cache
from vggrpo.pretraining.reading_cache import CachedReadings, pack_lesson, taught_frames, unpack_lesson
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.training import LoopConfig
from vggrpo.types import Latents, SceneGeometry

TRAINING = LgmTraining(
    connector=DEBUG_CONNECTOR,
    loop=LoopConfig(steps=3, learning_rate=1e-3, warmup_steps=1, checkpoint_every=10),
    lora_rank=4,
    lora_alpha=8,
    search_clips=2,
    test_clips=1,
    dense_frames=2,
    bfloat16=False,
)


class Named(NamedClips):
    """Random clips with names."""

    def __init__(self, count: int) -> None:
        self.clips = debug_clips(count)
        self.images_read = 0

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> AlignedClip:
        self.images_read += 1
        return self.clips[index]

    def identity(self, index: int) -> str:
        return f"clip {index}"

    def latents(self, index: int) -> Latents:
        return self.clips[index].latents


@pytest.fixture(scope="module", params=["any4d", "vggt"])
def teacher(request: pytest.FixtureRequest) -> object:
    return build_geometry(request.param, random_seed=0, size="debug")


def pick(clips: Named, index: int = 0) -> ClipPick:
    return ClipPick(source=clips, index=index)


def last(available: torch.Tensor) -> torch.Tensor:
    return available[-2:]


def test_a_reading_is_phis_own_within_the_digits_that_are_kept(teacher: object, tmp_path: Path) -> None:
    clips = Named(1)
    kept = CachedReadings(teacher, cache=tmp_path, taught_frames=3).lesson(pick(clips), draw=last)
    frames = taught_frames("clip 0", count=5, wanted=3)
    assert torch.equal(kept.frames, frames[-2:])
    assert torch.equal(kept.feature_frames, frames)
    direct = read_lesson(teacher, clips.clips[0], frames=kept.frames)
    assert torch.equal(kept.latents.tensor, direct.latents.tensor)
    ours, theirs = kept.theirs.decoded.scene, direct.theirs.decoded.scene
    torch.testing.assert_close(kept.theirs.decoded.camera_from_world, direct.theirs.decoded.camera_from_world)
    for name in ("camera_from_world", "intrinsics"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    for name in ("valid", "flow_valid"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    for name in ("depth", "points", "scene_flow", "confidence"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-3, atol=1e-4)
    features = direct.theirs.features.index_select(1, frames)
    torch.testing.assert_close(kept.theirs.features.float(), features.float(), rtol=2**-8, atol=1e-3)


def test_what_is_written_and_what_is_found_are_the_same_bits(teacher: object, tmp_path: Path) -> None:
    """A first run that makes the cache, a second one that finds it, a third one after it was deleted."""
    models = []
    for run, cache in (("first", "a"), ("second", "a"), ("third", "b")):
        clips = Named(4)
        data = AlignmentData(world=clips)
        lessons = CachedReadings(teacher, cache=tmp_path / cache, taught_frames=3)
        lessons.fill(data.picks())
        out = tmp_path / run
        train_lgm(teacher, data, training=TRAINING, out=out, lessons=lessons)
        models.append((out / "model" / "latent_geometry.safetensors").read_bytes())
    assert models[0] == models[1] == models[2]


def test_readings_are_made_once_and_go_on_after_a_kill(
    teacher: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = Named(3)
    read: list[str] = []

    def dying(lesson: object) -> dict[str, torch.Tensor]:
        if len(read) == 2:
            raise SystemExit(143)
        read.append("one")
        return pack_lesson(lesson)

    picks = AlignmentData(world=clips).picks()
    with monkeypatch.context() as patch:
        patch.setattr("vggrpo.pretraining.reading_cache.pack_lesson", dying)
        with pytest.raises(SystemExit):
            CachedReadings(teacher, cache=tmp_path, taught_frames=2).fill(picks)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(files) == 2
    before = clips.images_read
    readings = CachedReadings(teacher, cache=tmp_path, taught_frames=2)
    readings.fill(picks)
    assert clips.images_read - before <= 2, "one clip was missing (the checks of types may read one more)"
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    assert list(tmp_path.rglob(".*.tmp")) == []


def test_readings_of_another_phi_are_never_read(teacher: object, tmp_path: Path) -> None:
    other = build_geometry("any4d", random_seed=1, size="debug")
    for one in (teacher, other):
        CachedReadings(one, cache=tmp_path, taught_frames=2).lesson(pick(Named(1)), draw=last)
    CachedReadings(other, cache=tmp_path, taught_frames=3).lesson(pick(Named(1)), draw=last)
    assert len(list(tmp_path.iterdir())) == 3


def test_lengths_beyond_half_precision_are_cut_off_and_small_scenes_keep_their_digits() -> None:
    teacher = build_geometry("any4d", random_seed=0, size="debug")
    lesson = read_lesson(teacher, debug_clips(1)[0], frames=torch.arange(2))
    scene = lesson.theirs.decoded.scene
    valid = torch.ones_like(scene.valid)
    for scale in (1e-6, 1.0, 1e7):
        depth = scale * (1 + torch.rand(scene.depth.shape, generator=torch.Generator().manual_seed(0)))
        depth[0, 0, 0, 0] = 1e9 * scale
        changed = replace(scene, depth=depth, valid=valid)
        decoded = replace(lesson.theirs.decoded, scene=changed)
        packed = pack_lesson(replace(lesson, theirs=replace(lesson.theirs, decoded=decoded)))
        kept = unpack_lesson(packed, draw=lambda all_: all_, device=torch.device("cpu"), latents=lesson.latents)
        read = kept.theirs.decoded.scene.depth
        assert read.isfinite().all()
        assert 6e4 * scale < float(read[0, 0, 0, 0]) < 2.7e5 * scale
        torch.testing.assert_close(read.flatten()[1:], depth.flatten()[1:], rtol=2**-11, atol=0)


def test_a_scene_without_flow_takes_no_room_for_it() -> None:
    teacher = build_geometry("vggt", random_seed=0, size="debug")
    lesson = read_lesson(teacher, debug_clips(1)[0], frames=torch.arange(2))
    packed = pack_lesson(lesson)
    assert "scene_flow" not in packed
    kept = unpack_lesson(packed, draw=last, device=torch.device("cpu"), latents=lesson.latents)
    scene: SceneGeometry = kept.theirs.decoded.scene
    assert not scene.flow_valid.any()
    assert scene.scene_flow.shape == scene.points.shape


def test_direct_readings_may_draw_any_frame() -> None:
    teacher = build_geometry("any4d", random_seed=0, size="debug")
    lesson = ReadNow(teacher=teacher).lesson(pick(Named(1)), draw=lambda frames: frames[frames % 2 == 1])
    assert lesson.frames.tolist() == [1, 3]
    assert lesson.theirs.features.shape[1] == 5
    assert lesson.feature_frames is None


def test_frames_are_drawn_by_name_and_all_are_met() -> None:
    drawn = [taught_frames(f"clip {index}", count=33, wanted=8) for index in range(60)]
    assert all(torch.equal(frames, frames.sort().values) and len(frames.unique()) == 8 for frames in drawn)
    assert len(torch.cat(drawn).unique()) == 33
    assert torch.equal(drawn[3], taught_frames("clip 3", count=33, wanted=8))
    assert taught_frames("clip", count=5, wanted=8).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["any4d", "vggt"])
def test_the_plan_is_what_the_files_take(name: str, tmp_path: Path) -> None:
    """At most, and by no more than headers and the flow that a static model leaves out."""
    teacher = build_geometry(name, random_seed=0, size="debug")
    clips = Named(2)
    readings = CachedReadings(teacher, cache=tmp_path, taught_frames=3)
    readings.fill(AlignmentData(world=clips).picks())
    taken = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    size = clips.clips[0].images.shape[-1]
    sizes = ClipSizes(
        video=(5, 32, 32),
        latents=(2, 2, 4, 4),
        image=(size, size),
        tokens=(size // teacher.patch_size) ** 2,
        token_dim=teacher.token_dim,
    )
    planned = plan_cache(sizes, clips=2, generated=0, taught=3).readings
    assert taken < planned + 2 * 4096
    assert taken > (0.6 if name == "vggt" else 0.95) * planned


def test_a_plan_that_exceeds_its_limit_or_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ClipSizes(video=(33, 480, 832), latents=(16, 9, 60, 104), image=(420, 728), tokens=1560, token_dim=1024)
    plan = plan_cache(sizes, clips=1000, generated=200, taught=8)
    assert plan.latents == 1000 * 4 * 16 * 9 * 60 * 104
    assert plan.generated == 200 * (33 * 480 * 832 * 3 + 2 * 16 * 9 * 60 * 104)
    assert "readings of Φ" in plan.describe(tmp_path)
    with pytest.raises(UserError, match=r"--cache-gib allows 10:"):
        plan.require_room(tmp_path, limit_gib=10.0)
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 2**30})())
    with pytest.raises(UserError, match=r"has 1\.00 GiB left"):
        plan.require_room(tmp_path / "not" / "there", limit_gib=1000.0)
