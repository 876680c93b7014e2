"""A picture to the latents that a video starts from."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.generation.request import read_first_frame
from vggrpo.latents import VideoVAE, video_from_frames
from vggrpo.presets import Preset


@torch.no_grad()
def first_frame_latents(file: Path, vae: VideoVAE, *, preset: Preset) -> Float[Tensor, "1 C 1 h w"]:
    """Normalised latents of a picture at the preset's size; loads the VAE. Raises a UserError for no picture."""
    image = np.asarray(read_first_frame(file, height=preset.height, width=preset.width))
    video = video_from_frames(torch.from_numpy(image.copy())[None, None])
    return vae.encode_normalised(video).tensor
