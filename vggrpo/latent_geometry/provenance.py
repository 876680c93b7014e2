"""What a trained Φ_g was made of, beside its weights: checked before it reads the latents of a model.

``trained_on.json`` lies in the folder that ``train-lgm`` exports, so copying the folder copies it. Φ itself is checked
by its fingerprint (``LatentGeometryModel.load``); here it is the VAE: latents of another one have the same shape and
mean something else, and nothing but this file would tell.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.runtime.weights_sketch import weights_sketch

TRAINED_ON_NAME = "trained_on.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """The models and videos behind a Φ_g.

    ``vae`` and ``foundation`` are sketches of weights: of what encodes (``encoder_sketch``), and of all of Φ.
    """

    preset: str
    geometry: str
    vae: str
    foundation: str
    block: int
    configuration_error: float
    height: int
    width: int
    num_frames: int
    fps: int | float
    world_clips: int
    generated_clips: int
    videos: str
    """Where the real clips came from, in words; empty without any."""
    steps: int
    seed: int


def encoder_sketch(vae: nn.Module) -> str:
    """A short name for the part of a video VAE that its latents come from: its decoder may be trained further."""
    return weights_sketch(vae, parts=("encoder.", "quant_conv."))


def write_trained_on(folder: Path, record: TrainedOn) -> None:
    """Write the record into the folder of a saved Φ_g."""
    atomic_write_text(folder / TRAINED_ON_NAME, json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n")


def read_trained_on(folder: Path) -> TrainedOn | None:
    """The record of a saved Φ_g; None for one that was saved without (the shipped ones are listed in a MANIFEST).

    Raises:
        UserError: the file is there and says something else.
    """
    path = folder / TRAINED_ON_NAME
    if not path.is_file():
        return None
    try:
        return TrainedOn(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say what was trained ({error}): train it again with train-lgm.") from error


def require_trained_on(folder: Path, *, vae: nn.Module, height: int, width: int, num_frames: int) -> str | None:
    """Check that a Φ_g reads the latents of ``vae``; a line to show where it was trained at other sizes, else None.

    Raises:
        UserError: it was trained on another VAE.
    """
    record = read_trained_on(folder)
    if record is None:
        return None
    # Records used to name the whole VAE, decoder included.
    if record.vae not in {encoder_sketch(vae), weights_sketch(vae)}:
        raise UserError(
            f"{folder} reads the latents of another video VAE (it was trained for {record.preset}): "
            "give the model folder that it was trained with, or train it again with train-lgm."
        )
    if (record.height, record.width, record.num_frames) == (height, width, num_frames):
        return None
    return (
        f"{folder} was trained on {record.num_frames} frames of {record.width}×{record.height} pixels and now reads "
        f"{num_frames} of {width}×{height}: its geometry may be worse there."
    )
