"""Pairs of latents and video for ``train-lgm``: world clips through the VAE, and clips that the video model generates.

Generated clips are what Φ_g will read in use; training on them closes the gap between the two kinds of latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latents import VideoVAE, frames_from_video, video_from_frames
from vggrpo.policy.backbone import TextConditioner
from vggrpo.policy.sampling import Conditions, draw_noise, sample_ode
from vggrpo.pretraining.data import ClipCache
from vggrpo.types import Latents
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How clips are generated for alignment; few steps are enough and quick."""

    steps: int = 10
    guidance: float = 4.0
    shift: float = 3.0
    num_frames: int = 17
    size: int = 128


class WorldClips(Sequence[AlignedClip]):
    """World clips by index: encoded when asked for (a fraction of a second), so nothing but clips is stored."""

    def __init__(self, cache: ClipCache, vae: VideoVAE, *, count: int) -> None:
        self._cache = cache
        self._vae = vae
        self._count = count

    def __len__(self) -> int:
        """Number of clips."""
        return self._count

    @torch.no_grad()
    def __getitem__(self, index: int) -> AlignedClip:  # type: ignore[override]  # slices are not needed
        """The clip of training seed number ``index``."""
        frames = torch.from_numpy(self._cache.rgb(FIRST_TRAINING_SEED + index))[None]
        latents = self._vae.encode_normalised(video_from_frames(frames))
        return AlignedClip(latents=latents, images=frames.permute(0, 1, 4, 2, 3).float() / 255.0)


class GeneratedClips(Sequence[AlignedClip]):
    """Generated clips by index: files of latents (bf16) and decoded frames (uint8)."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._files)

    def __getitem__(self, index: int) -> AlignedClip:  # type: ignore[override]  # slices are not needed
        """One generated clip."""
        tensors = load_file(self._files[index])
        images = tensors["frames"].permute(0, 1, 4, 2, 3).float() / 255.0
        return AlignedClip(latents=Latents(tensor=tensors["latents"].float()), images=images)


@torch.no_grad()
def generate_clips(
    transformer: WanTransformer3DModel,
    text: TextConditioner,
    vae: VideoVAE,
    *,
    count: int,
    folder: Path,
    settings: SamplerSettings,
) -> GeneratedClips:
    """Generate ``count`` clips for captions of training scenes into ``folder``; those already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index:05d}.safetensors" for index in range(count)]
    cells = settings.size // vae.model.spatial_compression_ratio
    shape = (1, vae.model.config.z_dim, (settings.num_frames - 1) // 4 + 1, cells, cells)
    for index in track(range(count), description="generating clips", console=Console(stderr=True)):
        if _is_whole(files[index]):
            continue
        caption = sample_scene(FIRST_TRAINING_SEED + index).caption
        conditions = Conditions(text=text.embed(caption), negative=text.embed(""), guidance=settings.guidance)
        noise = draw_noise(shape, seed=index, device=vae.model.device)
        latents = sample_ode(transformer, noise, conditions, steps=settings.steps, shift=settings.shift)
        # Frames are decoded from the very latents that are stored: rounded first.
        stored = latents.tensor.to(torch.bfloat16).cpu()
        frames = frames_from_video(vae.decode_normalised(Latents(tensor=stored.float())))
        temporary = files[index].with_suffix(".tmp")
        save_file({"latents": stored, "frames": frames.contiguous()}, temporary)
        temporary.replace(files[index])
    return GeneratedClips(files)


def _is_whole(path: Path) -> bool:
    try:
        return {"latents", "frames"} <= load_file(path).keys()
    except (FileNotFoundError, SafetensorError):
        return False
