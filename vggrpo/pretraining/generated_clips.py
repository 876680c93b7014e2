"""Clips that the video model itself generates: what Φ_g will read in use. They close the gap to encoded clips.

Latents are kept as they left the sampler, rounded to bfloat16, with the frames (uint8) decoded from the very latents
that are kept: decoding them again would cost more than the disk.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from rich.console import Console
from rich.progress import track

from vggrpo.latent_geometry.stitching import AlignedClip
from vggrpo.latents import VideoVAE, frames_from_video
from vggrpo.policy.backbone import TextConditioner
from vggrpo.policy.sampling import Conditions, draw_noise, sample_ode
from vggrpo.pretraining.alignment_data import NamedClips, geometry_images, vae_key
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.tensor_cache import TensorCache
from vggrpo.runtime.weights_sketch import weights_sketch
from vggrpo.types import Latents


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How clips are generated for alignment; for the embedded model few steps are enough and quick."""

    steps: int = 10
    guidance: float = 4.0
    shift: float = 3.0
    num_frames: int = 17
    height: int = 128
    width: int = 128
    negative_prompt: str = ""


class GeneratedClips(NamedClips):
    """Generated clips by index, from their files."""

    def __init__(self, names: Sequence[str], cache: TensorCache, *, patch_size: int) -> None:
        self._names = names
        self._cache = cache
        self._patch_size = patch_size

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._names)

    def __getitem__(self, index: int) -> AlignedClip:  # type: ignore[override]  # slices are not needed
        """One generated clip, its images at the geometry model's size."""
        tensors = self._read(index)
        images = geometry_images(tensors["frames"][0], patch_size=self._patch_size)
        return AlignedClip(latents=Latents(tensor=tensors["latents"].float()), images=images)

    def identity(self, index: int) -> str:
        """Prompt, seed, settings and models."""
        return self._names[index]

    def latents(self, index: int) -> Latents:
        """As they left the sampler, rounded to bfloat16."""
        return Latents(tensor=self._read(index)["latents"].float())

    def _read(self, index: int) -> dict[str, torch.Tensor]:
        tensors = self._cache.get(self._names[index])
        if tensors is None:
            raise UserError(f"A generated clip in {self._cache.folder} is gone or damaged: run again with --resume.")
        return tensors


@torch.no_grad()
def generate_clips(
    transformer: WanTransformer3DModel,
    text: TextConditioner,
    vae: VideoVAE,
    *,
    prompts: Sequence[str],
    folder: Path,
    settings: SamplerSettings,
    patch_size: int = 16,
) -> GeneratedClips:
    """A clip of each prompt, seeded by its number, into ``folder``; those already there are kept."""
    cache = TensorCache(folder)
    models = f"{weights_sketch(transformer)[:12]}:{vae_key(vae)}"
    described = hashlib.sha256(json.dumps(asdict(settings)).encode()).hexdigest()[:12]
    names = [f"generated:{models}:{described}:{index}:{prompt}" for index, prompt in enumerate(prompts)]
    missing = [index for index, name in enumerate(names) if not cache.has(name)]
    if missing:
        # All at once, so that a large text encoder is loaded once and leaves before the first video.
        text.prepare([*(prompts[index] for index in missing), settings.negative_prompt])
    for index in track(missing, description="generating clips", console=Console(stderr=True)):
        made = _generated(transformer, text, vae, prompt=prompts[index], seed=index, settings=settings)
        cache.put(names[index], made)
    return GeneratedClips(names, cache, patch_size=patch_size)


def _generated(
    transformer: WanTransformer3DModel,
    text: TextConditioner,
    vae: VideoVAE,
    *,
    prompt: str,
    seed: int,
    settings: SamplerSettings,
) -> dict[str, torch.Tensor]:
    """Latents [1, C, T, h, w] in bfloat16 and frames [1, N, H, W, 3] in uint8."""
    factor = vae.spatial_factor
    shape = (1, vae.z_dim, (settings.num_frames - 1) // 4 + 1, settings.height // factor, settings.width // factor)
    conditions = Conditions(
        text=text.embed(prompt), negative=text.embed(settings.negative_prompt), guidance=settings.guidance
    )
    noise = draw_noise(shape, seed=seed, device=vae.model.device)
    latents = sample_ode(transformer, noise, conditions, steps=settings.steps, shift=settings.shift)
    # Frames are decoded from the very latents that are stored: rounded first.
    stored = latents.tensor.to(torch.bfloat16)
    frames = frames_from_video(vae.decode_normalised(Latents(tensor=stored.float())))
    return {"latents": stored.cpu(), "frames": frames}
