"""Scoring without models where none is needed, and with a stand-in reader whose geometry is known where one is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rewards.analytic import make_scene, scale_frame_depth
from vggrpo.presets import get_preset
from vggrpo.rewards import judge
from vggrpo.runtime import run_folder
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.run_folder import VideoFrames
from vggrpo.scoring import fit_video, score_geometry, score_latents, score_video
from vggrpo.types import ClipGeometry, Latents, SceneGeometry

PRESET = get_preset("tiny-debug")  # 9 frames of 64 × 64 at 8 a second: the size of the analytic scenes


class KnownReader:
    """Answers with an analytic scene and keeps what it was asked about."""

    preset = PRESET
    latent_shape = (16, 3, 8, 8)

    def __init__(self) -> None:
        self.scene = make_scene(dtype=torch.float32)
        self.asked: list[torch.Tensor] = []

    def read_geometry(self, latents: Latents, *, reward_space: str) -> SceneGeometry:
        assert reward_space == "latent"
        self.asked.append(latents.tensor)
        return self.scene

    def geometry_from_video(self, video: torch.Tensor) -> SceneGeometry:
        self.asked.append(video)
        return self.scene


def ramp(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame k is the grey 10 k, so that chosen frames can be told from their colour."""
    return (
        np.repeat(np.arange(count) * 10, height * width * 3).reshape(count, height, width, 3).clip(0, 255).astype("u1")
    )


def chosen(fps: float, count: int) -> list[int]:
    fitted = fit_video(VideoFrames(frames=ramp(count, 16, 16), fps=float(fps), has_more=False), preset=PRESET, name="v")
    return (fitted.frames[:, 0, 0, 0] / 10).astype(int).tolist()


def test_a_geometry_file_scores_as_the_scene_it_was_written_from(tmp_path: Path) -> None:
    scene = scale_frame_depth(make_scene(dtype=torch.float32), 4, 1.1)
    run_folder.write_geometry(tmp_path / "g.npz", ClipGeometry.from_scene(scene))
    run = score_geometry(tmp_path / "g.npz", tmp_path / "out")
    assert run.rewards() == json.loads(json.dumps(judge(scene).to_json()))
    names = ["error_maps.npz", "geometry.npz", "manifest.json", "rewards.json"]
    assert sorted(path.name for path in run.path.iterdir()) == names
    assert run.manifest()["files"] == names
    assert (run.path / "geometry.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()


def test_a_score_can_be_repeated_into_its_own_folder_but_not_into_a_strangers(tmp_path: Path) -> None:
    run_folder.write_geometry(tmp_path / "g.npz", ClipGeometry.from_scene(make_scene(dtype=torch.float32)))
    first = score_geometry(tmp_path / "g.npz", tmp_path / "out").rewards()
    assert score_geometry(tmp_path / "g.npz", tmp_path / "out").rewards() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="other files"):
        score_geometry(tmp_path / "g.npz", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_latents_are_handed_over_unchanged_and_checked_first(tmp_path: Path) -> None:
    reader = KnownReader()
    tensor = torch.randn(1, 16, 3, 8, 8)
    run_folder.write_latents(tmp_path / "z.safetensors", Latents(tensor=tensor), preset="tiny-debug")
    run = score_latents(tmp_path / "z.safetensors", tmp_path / "out", reader)
    torch.testing.assert_close(reader.asked[0], tensor, rtol=0, atol=0)
    assert run.manifest()["geometry"] == "latent"
    assert not run.file(run_folder.VIDEO).exists()
    run_folder.write_latents(tmp_path / "other.safetensors", Latents(tensor=tensor), preset="tiny")
    with pytest.raises(UserError, match="--preset tiny"):
        score_latents(tmp_path / "other.safetensors", tmp_path / "no", reader)
    run_folder.write_latents(tmp_path / "small.safetensors", Latents(tensor=tensor[..., :4]), preset="")
    with pytest.raises(UserError, match=r"\[16, 3, 8, 4\].*\[16, 3, 8, 8\]"):
        score_latents(tmp_path / "small.safetensors", tmp_path / "no", reader)
    assert not (tmp_path / "no").exists()


def test_a_video_of_another_size_is_fitted_and_the_manifest_says_how(tmp_path: Path) -> None:
    reader = KnownReader()
    run_folder.write_video(tmp_path / "v.mp4", ramp(30, 96, 160), fps=16)
    run = score_video(tmp_path / "v.mp4", tmp_path / "out", reader)
    assert reader.asked[0].shape == (1, 3, 9, 64, 64)
    assert reader.asked[0].min() >= -1
    notes = run.manifest()["notes"]
    assert notes == [
        "9 of 30 frames, at 8 frames a second",
        "160 × 96 cropped to 96 × 96, resized to 64 × 64",
    ]
    judged = run_folder.read_video(run.file(run_folder.VIDEO), max_frames=100)
    assert judged.frames.shape == (9, 64, 64, 3)


def test_two_frames_are_refused_with_the_number_needed_and_nothing_is_left(tmp_path: Path) -> None:
    run_folder.write_video(tmp_path / "v.mp4", ramp(2), fps=8)
    with pytest.raises(UserError, match="has 2 frames; at least 9"):
        score_video(tmp_path / "v.mp4", tmp_path / "out", KnownReader())
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize(
    ("fps", "count", "expected"),
    [
        (8, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (30, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (8, 20, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (16, 20, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        (24, 25, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
        (30, 17, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        (4, 17, [0, 2, 4, 6, 8, 10, 12, 14, 16]),
        (0, 17, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_frames_are_taken_at_the_presets_rate_or_evenly_spread(fps: float, count: int, expected: list[int]) -> None:
    assert chosen(fps, count) == expected


def test_cropping_keeps_the_middle() -> None:
    frames = np.zeros((9, 64, 128, 3), dtype=np.uint8)
    frames[:, :, 32:96] = 200
    fitted = fit_video(VideoFrames(frames=frames, fps=8.0, has_more=False), preset=PRESET, name="v")
    assert (fitted.frames == 200).all()


@pytest.mark.parametrize(("height", "width"), [(8, 64), (16, 512)])
def test_videos_too_small_or_too_wide_are_refused(height: int, width: int) -> None:
    video = VideoFrames(frames=ramp(9, height, width), fps=8.0, has_more=False)
    with pytest.raises(UserError, match=f"{width} × {height}"):
        fit_video(video, preset=PRESET, name="v.mp4")


def test_an_unmeasurable_geometry_scores_null_with_a_reason(tmp_path: Path) -> None:
    scene = make_scene(dtype=torch.float32)
    blank = replace(scene, valid=torch.zeros_like(scene.valid))
    run_folder.write_geometry(tmp_path / "g.npz", ClipGeometry.from_scene(blank))
    rewards = score_geometry(tmp_path / "g.npz", tmp_path / "out").rewards()
    entry = rewards["geometry_consistency"]
    assert isinstance(entry, dict)
    assert entry["value"] is None
    assert entry["reason"]
