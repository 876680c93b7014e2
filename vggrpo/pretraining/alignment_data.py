"""Pairs of latents and video for ``train-lgm``: clips of the procedural world and real clips, through the VAE.

Latents are made once and kept on disk in float32, so that a clip from the cache is to the bit the one that was encoded.
Frames are not kept: they are rendered or decoded again by the few who need them (the stitching search, and Φ where its
readings are not cached), to the same bytes. Latents belong to one VAE: its folder is named by the VAE's weights, its
latent statistics and the precision that it runs in.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo.latent_geometry.pixel_grid import resize_for_geometry
from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latents import VideoVAE, video_from_frames
from vggrpo.pretraining import data
from vggrpo.pretraining.data import ClipCache
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.tensor_cache import TensorCache
from vggrpo.runtime.weights_sketch import weights_sketch
from vggrpo.types import Latents
from vggrpo.worlds import FIRST_TRAINING_SEED
from vggrpo.worlds.clip_decoding import UnusableVideo, VideoClip, read_clip


@runtime_checkable
class FrameSource(Protocol):
    """One clip's frames, made when asked for."""

    @property
    def identity(self) -> str:
        """Equal for equal frames."""
        ...

    def frames(self) -> UInt8[np.ndarray, "N H W 3"]:
        """The frames."""
        ...


@dataclass(frozen=True, kw_only=True)
class RenderedFrames:
    """A clip of the procedural world."""

    cache: ClipCache
    seed: int

    @property
    def identity(self) -> str:
        """World, seed and size."""
        return f"world-v{data.CACHE_VERSION}:{self.seed}:{self.cache.num_frames}x{self.cache.size}"

    def frames(self) -> UInt8[np.ndarray, "N H W 3"]:
        """Rendered, or read from the world's own cache."""
        return self.cache.rgb(self.seed)


@dataclass(frozen=True, kw_only=True)
class FilmedFrames:
    """A clip of a real video."""

    clip: VideoClip

    @property
    def identity(self) -> str:
        """File, place and shape."""
        return self.clip.identity

    def frames(self) -> UInt8[np.ndarray, "N H W 3"]:
        """Decoded. Raises a UserError for a file that could be read before."""
        try:
            return read_clip(self.clip)
        except UnusableVideo as error:
            raise UserError(
                f"{self.clip.source.name} could be read before and cannot now ({error}): do not change the videos "
                "while train-lgm runs."
            ) from error


class NamedClips(Sequence[AlignedClip]):
    """Clips for alignment that say which they are, so that what was computed of them can be kept."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """Equal for equal clips, latents included."""

    @abstractmethod
    def latents(self, index: int) -> Latents:
        """Only the latents of a clip."""


class EncodedClips(NamedClips):
    """Clips by index, encoded by a VAE the first time that they are read."""

    def __init__(self, sources: Sequence[FrameSource], encoder: "CachedEncoder", *, patch_size: int) -> None:
        """``patch_size`` is the geometry model's, which decides the size of the images."""
        self._sources = sources
        self._encoder = encoder
        self._patch_size = patch_size

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._sources)

    def __getitem__(self, index: int) -> AlignedClip:  # type: ignore[override]  # slices are not needed
        """A clip with its images in [0, 1], at the geometry model's size."""
        source = self._sources[index]
        frames = source.frames()
        latents = self._encoder.latents(source.identity, lambda: frames)
        return AlignedClip(latents=latents, images=geometry_images(frames, patch_size=self._patch_size))

    def identity(self, index: int) -> str:
        """The frames' identity and the VAE's."""
        return f"{self._encoder.key}:{self._sources[index].identity}"

    def latents(self, index: int) -> Latents:
        """From the cache; only a clip that is not there is rendered or decoded."""
        source = self._sources[index]
        return self._encoder.latents(source.identity, source.frames)


class CachedEncoder:
    """A VAE that encodes every clip once."""

    def __init__(self, vae: VideoVAE, *, cache: Path) -> None:
        """Latents are kept in a folder below ``cache`` that belongs to this VAE."""
        self._vae = vae
        self.key = vae_key(vae)
        self._cache = TensorCache(cache / f"latents-{self.key}")

    def has(self, identity: str) -> bool:
        """Whether a clip's latents are there."""
        return self._cache.has(identity)

    @torch.no_grad()
    def latents(self, identity: str, frames: Callable[[], UInt8[np.ndarray, "N H W 3"]]) -> Latents:
        """A clip's latents, from the cache or encoded now."""
        kept = self._cache.get(identity)
        if kept is None:
            video = video_from_frames(torch.from_numpy(frames())[None])
            kept = {"latents": self._vae.encode_normalised(video).tensor.cpu()}
            self._cache.put(identity, kept)
        return Latents(tensor=kept["latents"])


def world_clips(cache: ClipCache, vae: VideoVAE, *, count: int, patch_size: int, folder: Path) -> EncodedClips:
    """The first ``count`` training clips of the procedural world; latents are kept below ``folder``."""
    sources = [RenderedFrames(cache=cache, seed=FIRST_TRAINING_SEED + index) for index in range(count)]
    return EncodedClips(sources, CachedEncoder(vae, cache=folder), patch_size=patch_size)


def geometry_images(
    frames: UInt8[np.ndarray, "N H W 3"] | UInt8[Tensor, "N H W 3"], *, patch_size: int
) -> Float[Tensor, "1 N 3 H2 W2"]:
    """Frames as the geometry model reads them: in [0, 1], channels first, at its size."""
    tensor = frames if isinstance(frames, Tensor) else torch.from_numpy(frames)
    images = tensor[None].permute(0, 1, 4, 2, 3).float() / 255.0
    return resize_for_geometry(images, patch_size=patch_size)


def vae_key(vae: VideoVAE) -> str:
    """Twelve digits for what decides a video's normalised latents: weights, statistics, precision."""
    statistics = [list(vae.config[name]) for name in ("latents_mean", "latents_std")]
    described = json.dumps([weights_sketch(vae.model), statistics, str(vae.model.dtype)])
    return hashlib.sha256(described.encode()).hexdigest()[:12]
