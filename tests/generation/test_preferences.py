"""Who Flow-DPO prefers, on clips of the world with known defects, through a VAE that returns the frames themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.grpo.toy import Brightness
from vggrpo.evaluation.apparent_motion import apparent_motion
from vggrpo.generation.preferences import VideoRanker
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.preference import SWAY
from vggrpo.latents import video_from_frames
from vggrpo.rewards import reward_names
from vggrpo.types import Latents, SceneGeometry, WorldClip
from vggrpo.worlds import make_clip, sample_scene

CONFIG = GrpoConfig(objective="dpo", reward_batch=2)


def seed_of(move: str) -> int:
    """A still scene with this camera move."""
    return next(
        seed
        for seed in range(2000)
        if sample_scene(seed).camera.name == move and not any(item.moves for item in sample_scene(seed).objects)
    )


def warped(frames: np.ndarray) -> np.ndarray:
    """Every second frame is bent by waves of 3 pixels: no camera could see the scene so."""
    bent = frames.copy()
    for row in range(frames.shape[1]):
        bent[1::2, row] = np.roll(frames[1::2, row], round(3 * np.sin(row / 8)), axis=1)
    return bent


@dataclass
class FramesAsLatents:
    """Latents are the video; Φ knows the true geometry of the clips, in the order that they are asked for."""

    scenes: Sequence[SceneGeometry] = ()
    read: int = 0
    batches: list[int] = field(default_factory=list)

    def ranker(self, config: GrpoConfig) -> VideoRanker:
        return VideoRanker(config=config, decode=self._decode, geometry=self._geometry, rewards=Brightness())

    def _decode(self, latents: Latents) -> Tensor:
        self.batches.append(len(latents.tensor))
        return latents.tensor

    def _geometry(self, video: Tensor) -> SceneGeometry:
        some = self.scenes[self.read : self.read + len(video)]
        self.read += len(video)
        names = SceneGeometry.__dataclass_fields__
        return SceneGeometry(**{name: torch.cat([getattr(scene, name) for scene in some]) for name in names})


def latents_of(*videos: np.ndarray) -> Latents:
    return Latents(tensor=video_from_frames(torch.from_numpy(np.stack(videos))))


@pytest.fixture(scope="module")
def clip() -> WorldClip:
    return make_clip(seed_of("truck left"), num_frames=9, jitter=False)


@pytest.mark.parametrize("preference", ["epipolar", "reprojection"])
def test_a_true_clip_is_preferred_to_a_warped_one(clip: WorldClip, preference: str) -> None:
    grey = np.full_like(clip.rgb, 128)
    frames = FramesAsLatents(scenes=[clip.geometry.to_scene()] * 3)
    ranker = frames.ranker(replace(CONFIG, preference=preference))
    found = ranker(latents_of(warped(clip.rgb), clip.rgb, grey))
    assert list(found.scores) == [preference]
    bent, true, plain = found.scores[preference].tolist()
    assert bent < true < 0
    assert frames.batches == [2, 1]
    # Without features nothing can be said of epipolar lines; of colours it can.
    assert np.isnan(plain) == (preference == "epipolar")
    assert found.motion is not None
    assert float(found.motion[2]) == 0.0
    assert float(found.motion[1]) == pytest.approx(apparent_motion(clip.rgb), rel=0.05)


def test_a_geometry_that_compares_little_ranks_nothing(clip: WorldClip) -> None:
    scene = clip.geometry.to_scene()
    away = replace(scene, depth=scene.depth * 0.01)
    frames = FramesAsLatents(scenes=[away])
    ranker = frames.ranker(replace(CONFIG, preference="reprojection"))
    assert ranker(latents_of(clip.rgb)).scores["reprojection"].isnan().all()


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_rewards_rank_and_nothing_is_decoded_where_motion_is_not_asked(clip: WorldClip, floor: float) -> None:
    frames = FramesAsLatents()
    config = replace(CONFIG, preference="reward", pair_motion_floor=floor)
    found = frames.ranker(config)(latents_of(clip.rgb))
    assert set(found.scores) == set(reward_names())
    assert (frames.batches, found.motion is None) == (([], True) if floor == 0.0 else ([1], False))


def test_motion_is_what_gets_somewhere() -> None:
    """Half a clip's motion: a shaking camera that stands adds its sway, one that moves gets several times as far."""
    moving, standing = (seed_of(move) for move in ("truck left", "static"))
    steady, shaking = (apparent_motion(make_clip(moving, jitter=jitter).rgb) for jitter in (False, True))
    still, swaying = (apparent_motion(make_clip(standing, jitter=jitter).rgb) for jitter in (False, True))
    assert still == pytest.approx(0.0, abs=1e-3)
    assert 0.25 * SWAY < swaying < 2.5 * SWAY
    assert steady > 1.5 * swaying
    assert steady == pytest.approx(shaking, rel=0.3)
    assert np.isnan(apparent_motion(np.zeros((1, 32, 32, 3), np.uint8)))
    coarse = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    texture = (torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic")[0].clamp(0, 1) * 255).byte()
    shifted = np.stack([np.roll(texture.permute(1, 2, 0).numpy(), 2 * step, axis=1) for step in range(5)])
    # Two pixels a frame, two frames apart, of 128.
    assert apparent_motion(shifted) == pytest.approx(4 / 128, rel=0.25)
