"""Where a preset's weights come from, as the user says it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """Everything left out is the preset's own: shipped folders, or the hub."""

    model_folder: Path | None = None
    """A local ``WanPipeline`` folder instead of the preset's."""
    geometry: str | None = None
    """Name of the geometry model Φ."""
    geometry_weights: Path | None = None
    """Its weights: a folder, or one file."""
    latent_geometry: Path | None = None
    """A trained Φ_g: the folder that ``train-lgm`` exported."""
    offline: bool = False
    """Fetch nothing: what is not in the local cache is an error."""
    random_weights: bool = False
    """True sizes, random numbers: to measure time and memory without any file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSize:
    """Height, width and number of frames; None keeps the preset's."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
