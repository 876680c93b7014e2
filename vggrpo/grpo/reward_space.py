"""Where rewards are computed: on the latents themselves (the paper), or on the decoded video (what it saves).

    latent   z → Φ_g(z) → (C, D, P, F) → rewards              no VAE anywhere
    rgb      z → decode(z) = x → Φ(x) → (C, D, P, F) → rewards

Both give the same names, shapes and meanings, so a training can swap one for the other, and ``bench reward`` measures
what the detour through pixels costs. Everything here is without gradient: policy gradients need rewards as numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.rewards import RewardSettings, judge, reward_names
from vggrpo.rewards.guards import camera_path_length
from vggrpo.rewards.settings import DEFAULT_REWARDS
from vggrpo.types import Latents, SceneGeometry

RewardSpaceName = Literal["latent", "rgb"]

GUARDS = ("camera_path_length", "dynamic_degree", "moving_share")
"""Keys to read beside every gain: what a reward can be gained by giving up."""

MICRO_BATCH = 8
"""Videos judged at once: bounds memory, and does not change a video's rewards."""

ReadLatents = Callable[[Latents], SceneGeometry]
"""Φ_g."""
Decode = Callable[[Latents], Float[Tensor, "B 3 N H W"]]
"""The frozen VAE: normalised latents to video in [-1, 1]."""
ReadVideo = Callable[[Float[Tensor, "B 3 N H W"]], SceneGeometry]
"""Φ, for video in [-1, 1]."""


@runtime_checkable
class RewardSpace(Protocol):
    """A way from latents to rewards."""

    @property
    def name(self) -> RewardSpaceName:
        """Which way it is."""
        ...

    def score(self, latents: Latents) -> dict[str, Float[Tensor, " B"]]:
        """Every reward of ``reward_names()`` and guard of ``GUARDS`` by name: fp32, on the latents' device, NaN kept.

        NaN means that this video cannot be judged by this reward; it is for the caller to leave it out.
        """
        ...

    def camera_path_length(self, latents: Latents) -> Float[Tensor, " B"]:
        """That guard alone, as ``score`` has it: the rewards, which compare every pair of frames, are not computed."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentRewards:
    """Rewards of the geometry that Φ_g reads from latents. It holds no VAE, so it cannot decode."""

    latent_geometry: ReadLatents
    settings: RewardSettings = DEFAULT_REWARDS
    micro_batch: int = MICRO_BATCH
    name: Literal["latent"] = "latent"

    def __post_init__(self) -> None:
        """A micro-batch holds something."""
        _require_positive(self.micro_batch)

    @torch.no_grad()
    def score(self, latents: Latents) -> dict[str, Float[Tensor, " B"]]:
        """See ``RewardSpace.score``."""
        return _score(latents, self.latent_geometry, settings=self.settings, micro_batch=self.micro_batch)

    @torch.no_grad()
    def camera_path_length(self, latents: Latents) -> Float[Tensor, " B"]:
        """See ``RewardSpace.camera_path_length``."""
        return _path_length(latents, self.latent_geometry, micro_batch=self.micro_batch)


@dataclass(frozen=True, kw_only=True)
class RgbRewards:
    """Rewards of the geometry that Φ reads from the decoded video."""

    decode: Decode
    geometry: ReadVideo
    settings: RewardSettings = DEFAULT_REWARDS
    micro_batch: int = MICRO_BATCH
    name: Literal["rgb"] = "rgb"

    def __post_init__(self) -> None:
        """A micro-batch holds something."""
        _require_positive(self.micro_batch)

    @torch.no_grad()
    def score(self, latents: Latents) -> dict[str, Float[Tensor, " B"]]:
        """See ``RewardSpace.score``."""
        return _score(latents, self._read, settings=self.settings, micro_batch=self.micro_batch)

    @torch.no_grad()
    def camera_path_length(self, latents: Latents) -> Float[Tensor, " B"]:
        """See ``RewardSpace.camera_path_length``."""
        return _path_length(latents, self._read, micro_batch=self.micro_batch)

    def _read(self, latents: Latents) -> SceneGeometry:
        return self.geometry(self.decode(latents))


def _score(
    latents: Latents, read: ReadLatents, *, settings: RewardSettings, micro_batch: int
) -> dict[str, Float[Tensor, " B"]]:
    """Judge ``micro_batch`` videos at a time."""
    device = latents.tensor.device
    parts = [_judged(read(Latents(tensor=part)), settings=settings) for part in latents.tensor.split(micro_batch)]
    return {name: torch.cat([part[name] for part in parts]).float().to(device) for name in (*reward_names(), *GUARDS)}


def _path_length(latents: Latents, read: ReadLatents, *, micro_batch: int) -> Float[Tensor, " B"]:
    """Measure ``micro_batch`` videos at a time."""
    parts = [camera_path_length(read(Latents(tensor=part))) for part in latents.tensor.split(micro_batch)]
    return torch.cat(parts).float().to(latents.tensor.device)


def _judged(scene: SceneGeometry, *, settings: RewardSettings) -> dict[str, Tensor]:
    """Values of all rewards and guards of one micro-batch."""
    report = judge(scene, settings=settings)
    guards = {name: getattr(report.guards, name) for name in GUARDS}
    return {name: term.value for name, term in report.terms.items()} | guards


def _require_positive(micro_batch: int) -> None:
    """A setting of the program, not of the user: hence no UserError."""
    if micro_batch < 1:
        raise ValueError(f"micro_batch is {micro_batch}, at least 1 is needed")
