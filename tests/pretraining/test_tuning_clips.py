"""Clips for supervised fine-tuning: steady worlds by their captions, and videos of a folder that have one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worlds.real_videos import counting_frames, numbers_of, write_counting_video
from vggrpo.grpo.models import TrainingClips
from vggrpo.pretraining.alignment_data import CachedEncoder
from vggrpo.pretraining.tuning_clips import CaptionedClips, SteadyWorldClips, pick_captioned_clips
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents
from vggrpo.worlds import FIRST_TRAINING_SEED, make_clip, sample_scene
from vggrpo.worlds.clip_decoding import ClipShape

SHAPE = ClipShape(num_frames=5, height=32, width=32, fps=8)


class FramesAsLatents(CachedEncoder):
    """An encoder that keeps frames as they are, and says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def latents(self, identity: str, frames: Callable[[], np.ndarray]) -> Latents:
        self.asked.append(identity)
        return Latents(tensor=torch.from_numpy(frames().copy()).permute(3, 0, 1, 2)[None].float())


def frames_of(latents: Latents | None) -> np.ndarray:
    assert latents is not None
    return latents.tensor[0].permute(1, 2, 3, 0).numpy().astype(np.uint8)


def test_a_world_clip_is_the_captions_own_and_does_not_shake() -> None:
    encoder = FramesAsLatents()
    clips = SteadyWorldClips(encoder, shape=SHAPE)
    assert isinstance(clips, TrainingClips)
    seed = FIRST_TRAINING_SEED + 3
    scene = sample_scene(seed)
    found = frames_of(clips.latents(scene.caption, number=0))
    expected = make_clip(seed, num_frames=5, height=32, width=32, jitter=False)
    assert np.array_equal(found, expected.rgb)
    assert expected.caption == scene.caption
    shaking = make_clip(seed, num_frames=5, height=32, width=32, jitter=True)
    assert not np.array_equal(found, shaking.rgb)
    clips.latents(scene.caption, number=1)
    assert encoder.asked == [encoder.asked[0]] * 2
    assert "steady" in encoder.asked[0]


def test_a_caption_of_no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggrpo.pretraining.tuning_clips._FARTHEST", 20)
    with pytest.raises(UserError, match="No clip of the procedural world has the caption 'a thesis'"):
        SteadyWorldClips(FramesAsLatents(), shape=SHAPE).latents("a thesis", number=0)


def test_videos_that_share_a_caption_take_turns_and_a_broken_one_gives_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, caption in {"a": "grey", "b": "grey", "c": "broken"}.items():
        write_counting_video(tmp_path / f"{name}.mp4", 5, height=32, width=32)
        (tmp_path / f"{name}.txt").write_text(caption)
    filmed = pick_captioned_clips(tmp_path, shape=SHAPE, count=9, seed=0)
    assert sorted(clip.source.name for clip in filmed.clips) == ["a.mp4", "b.mp4", "c.mp4"]
    encoder = FramesAsLatents()
    clips = CaptionedClips.of(filmed, encoder)
    assert isinstance(clips, TrainingClips)
    found = [frames_of(clips.latents("grey", number=number)) for number in range(4)]
    assert numbers_of(found[0]) == numbers_of(counting_frames(5))
    assert encoder.asked[0] != encoder.asked[1]
    assert encoder.asked[:2] == encoder.asked[2:]
    (tmp_path / "c.mp4").write_bytes((tmp_path / "c.mp4").read_bytes()[:300])
    assert [clips.latents("broken", number=number) for number in range(2)] == [None, None]
    assert len([record for record in caplog.records if "left out" in record.message]) == 1


def test_only_videos_with_captions_are_picked_and_the_rest_is_listed(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "silent.mp4", 12)
    with pytest.raises(UserError, match=r"No video in .* has a caption"):
        pick_captioned_clips(tmp_path, shape=SHAPE, count=9, seed=0)
    write_counting_video(tmp_path / "told.mp4", 12)
    (tmp_path / "captions.csv").write_text("file,caption\ntold.mp4,a grey room\n")
    filmed = pick_captioned_clips(tmp_path, shape=SHAPE, count=9, seed=0)
    # Two clips of five frames lie in twelve.
    assert [clip.source.caption for clip in filmed.clips] == ["a grey room"] * 2
    assert [(one.name, one.reason) for one in filmed.skipped] == [("silent.mp4", "no caption")]
    assert len(pick_captioned_clips(tmp_path, shape=SHAPE, count=1, seed=0).clips) == 1
