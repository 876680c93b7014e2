"""``latents.safetensors``: the latents z of one video, normalised for diffusion."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes
from vggrpo.types import Latents

KEY = "latents"
SPACE = "normalised"
MAX_ELEMENTS = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsFile:
    """Latents [1, C, T, h, w] and the preset that they belong to ('' where the file does not say)."""

    latents: Latents
    preset: str


def write_latents(path: Path, latents: Latents, *, preset: str) -> None:
    """Write one video's latents as float32 under the key "latents"; equal latents give equal bytes.

    The safetensors library orders metadata at random from process to process, so the container, a length, a JSON
    header and the numbers, is written here.
    """
    tensor = latents.tensor.detach().to("cpu", torch.float32).contiguous()
    data = tensor.numpy().astype("<f4").tobytes()
    header = {
        "__metadata__": {"preset": preset, "space": SPACE},
        KEY: {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, len(data)]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    atomic_write_bytes(path, struct.pack("<Q", len(text)) + text + data)


def read_latents(path: Path) -> LatentsFile:
    """Read latents [C, T, h, w] or [1, C, T, h, w]. Raises a UserError for anything else."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a latents.safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            if KEY not in file.keys():  # noqa: SIM118 - the handle is no mapping
                raise UserError(f"{path} has no tensor '{KEY}' of shape [C, T, h, w].")
            shape = file.get_slice(KEY).get_shape()
            if len(shape) not in {4, 5} or (len(shape) == 5 and shape[0] != 1) or math.prod(shape) > MAX_ELEMENTS:
                raise UserError(f"{path}: '{KEY}' has shape {shape}; it must be [C, T, h, w] of one video.")
            metadata = file.metadata() or {}
            tensor = file.get_tensor(KEY)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file or is damaged.") from error
    if metadata.get("space", SPACE) != SPACE:
        raise UserError(f"{path} holds {metadata['space']!r} latents; normalise them first, (raw - mean) / std.")
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise UserError(f"{path}: '{KEY}' of shape {shape} holds NaN, infinity or no floating-point numbers.")
    return LatentsFile(
        latents=Latents(tensor=tensor.float().reshape(1, *shape[-4:])), preset=metadata.get("preset", "")
    )
