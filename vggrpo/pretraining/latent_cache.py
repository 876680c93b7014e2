"""World clips as normalised latents with captions, held in memory for the video model's training."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggrpo.latents import VideoVAE, video_from_frames
from vggrpo.pretraining.data import CACHE_VERSION, ClipCache
from vggrpo.worlds import FIRST_TRAINING_SEED

CHUNK = 50
"""Clips a file: an interrupted encoding goes on from the last whole chunk."""


@dataclass(frozen=True, kw_only=True)
class LatentClips:
    """Normalised latents of clips, of the same clips mirrored, and captions for both."""

    latents: Float[Tensor, "M C T h w"]
    captions: tuple[str, ...]


def mirror_caption(caption: str) -> str:
    """The caption of a clip seen in a mirror: left and right change places, objects are named in reverse order."""
    scene, *rest = caption.split(", ")
    objects, floor = scene.split(" on ")
    nouns = objects.split(" and ")
    mirrored = ", ".join([f"{' and '.join(reversed(nouns))} on {floor}", *rest])
    swaps = {"left": "right", "right": "left"}
    words = [swaps.get(word.rstrip(","), word.rstrip(",")) + "," * word.endswith(",") for word in mirrored.split(" ")]
    return " ".join(words)


@torch.no_grad()
def encode_clips(vae: VideoVAE, cache: ClipCache, *, count: int, folder: Path, weights: Path) -> LatentClips:
    """Encode the first ``count`` training clips and their mirror images, chunk by chunk through ``folder``.

    The folder's name holds the world's version and a hash of the VAE's ``weights`` folder, so latents of another world
    or VAE are never read.
    """
    digest = hashlib.sha256()
    for path in sorted(weights.iterdir()):
        digest.update(path.read_bytes())
    folder = folder / f"latents-v{CACHE_VERSION}-{digest.hexdigest()[:12]}-{cache.num_frames}x{cache.size}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    captions: list[str] = []
    starts = range(0, count, CHUNK)
    for start in track(starts, description="encoding clips", console=Console(stderr=True)):
        seeds = range(FIRST_TRAINING_SEED + start, FIRST_TRAINING_SEED + min(start + CHUNK, count))
        path = folder / f"{start:06d}-{len(seeds)}.safetensors"
        try:
            part = load_file(path)["latents"]
        except (FileNotFoundError, SafetensorError):
            part = _encode_chunk(vae, cache, seeds)
            temporary = path.with_suffix(".tmp")
            save_file({"latents": part}, temporary)
            temporary.replace(path)
        parts.append(part.float())
        for seed in seeds:
            caption = cache.caption(seed)
            captions += [caption, mirror_caption(caption)]
    return LatentClips(latents=torch.cat(parts), captions=tuple(captions))


def _encode_chunk(vae: VideoVAE, cache: ClipCache, seeds: range) -> Float[Tensor, "m C T h w"]:
    """Latents in bf16, each clip followed by its mirror image."""
    rows = []
    for seed in seeds:
        frames = cache.rgb(seed)
        pair = np.stack([frames, frames[:, :, ::-1]])
        video = video_from_frames(torch.from_numpy(pair))
        rows.append(vae.encode_normalised(video).tensor.to(torch.bfloat16))
    return torch.cat(rows)
