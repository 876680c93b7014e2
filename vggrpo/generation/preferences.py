"""Who prefers which videos: what Flow-DPO's pairs are made of.

    epipolar       − Sampson error of the decoded frames (OpenCV alone)                  Epipolar-DPO
    reprojection   − dense reprojection error of Φ's cameras, depth and flow on them     as VideoGPA
    reward         the rewards of a VGGRPO training, by its reward space

How much a video moves comes from its decoded frames each time, so that the floor of motion means the same.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from vggrpo.evaluation.apparent_motion import apparent_motion
from vggrpo.evaluation.epipolar import sampson_error
from vggrpo.evaluation.reprojection import reprojection_error
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.preference import Ranking
from vggrpo.grpo.reward_space import Decode, ReadVideo, RewardSpace
from vggrpo.latents import frames_from_video
from vggrpo.rewards import reward_names
from vggrpo.types import Latents

FEWEST_JUDGED = 0.125
"""Share of a clip's pairs of frames that must have had matches: the error of a single easy one flatters. No more is
asked, because the soft clips of a small video model have matches in some 2 of 16 pairs."""
LEAST_COMPARED = 0.25
"""Share of the pixels that must have been compared: a wild geometry compares little, and errs little there."""


@dataclass(frozen=True, kw_only=True)
class VideoRanker:
    """Ranks latents as the settings ask; see the module's text."""

    config: GrpoConfig
    decode: Decode
    geometry: ReadVideo
    """Φ; asked for ``reprojection`` only."""
    rewards: RewardSpace
    """Asked for ``reward`` only."""

    @torch.no_grad()
    def __call__(self, latents: Latents) -> Ranking:
        """Scores and motion of a batch of videos, ``reward_batch`` of them at a time."""
        config = self.config
        scores: dict[str, Tensor] = {}
        if config.preference == "reward":
            found = self.rewards.score(latents)
            scores = {name: found[name].cpu() for name in reward_names()}
            if not config.pair_motion_floor:
                return Ranking(scores=scores)
        videos = list(self._videos(latents))
        if config.preference == "epipolar":
            scores = {"epipolar": torch.tensor([_epipolar(frames) for frames in _each(videos)])}
        elif config.preference == "reprojection":
            scores = {"reprojection": torch.cat([self._reprojection(video) for video in videos])}
        motion = torch.tensor([apparent_motion(frames.numpy()) for frames in _each(videos)])
        return Ranking(scores=scores, motion=motion if config.pair_motion_floor else None)

    def _videos(self, latents: Latents) -> Iterator[Float[Tensor, "b 3 N H W"]]:
        """Decoded in [-1, 1], in main memory."""
        for part in latents.tensor.split(self.config.reward_batch):
            yield self.decode(Latents(tensor=part)).float().cpu()

    def _reprojection(self, video: Float[Tensor, "b 3 N H W"]) -> Float[Tensor, " b"]:
        """Negative error of what Φ sees, on Φ's own pixels."""
        scene = self.geometry(video)
        frames = (video.transpose(1, 2).flatten(0, 1) + 1.0) / 2.0
        frames = F.interpolate(frames, size=scene.depth.shape[-2:], mode="bilinear", antialias=True)
        images = frames.unflatten(0, (len(video), -1)).transpose(1, 2).to(scene.depth.device)
        error = reprojection_error(images, scene=scene)
        return (-error.value).masked_fill(error.compared < LEAST_COMPARED, math.nan).float().cpu()


def _each(videos: list[Float[Tensor, "_ 3 N H W"]]) -> Iterator[UInt8[Tensor, "N H W 3"]]:
    """The frames of one video after the other."""
    for video in videos:
        yield from frames_from_video(video)


def _epipolar(frames: UInt8[Tensor, "N H W 3"]) -> float:
    """Negative Sampson error in pixels; NaN where too few pairs of frames could be judged."""
    error = sampson_error(frames.numpy())
    pairs = len(error.per_pair)
    return -error.value if pairs and pairs - error.failures >= FEWEST_JUDGED * pairs else math.nan
