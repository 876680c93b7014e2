"""Options that several commands share. The texts here are what ``--help`` shows; nothing heavy is imported."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Options of every command."""

    json: bool = False
    """Print the result as one JSON object on the last line of standard output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsChoice(Command):
    """Options of every command that loads a preset's models; what is not given is the preset's."""

    preset: str = "tiny"
    """See `presets`."""
    model_folder: Path | None = None
    """A local folder with the video model (a diffusers WanPipeline) instead of fetching it."""
    offline: bool = False
    """Fetch nothing: what is not in the local cache is an error."""
    geometry_weights: Path | None = None
    """Weights of the geometry model Φ, a folder or one file, instead of fetching them."""
    latent_geometry: Path | None = None
    """A latent geometry model Φ_g: the folder that `train-lgm` exported."""
    height: int | None = None
    """Height of the video in pixels."""
    width: int | None = None
    """Width of the video in pixels."""
    frames: int | None = None
    """Frames of the video, 4 n + 1."""

    @property
    def geometry_model_name(self) -> str | None:
        """Which Φ; the preset's if None. `score` names a file `--geometry`, so the flag differs by command."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChoice(WeightsChoice):
    """The same, with the choice of the geometry model."""

    geometry: str | None = None
    """The geometry model Φ: any4d, or vggt for scenes that stand still."""

    @property
    def geometry_model_name(self) -> str | None:
        """See ``WeightsChoice``."""
        return self.geometry


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgingCommand(WeightsChoice):
    """Options of the commands that compute rewards."""

    reward_file: tuple[Path, ...] = ()
    """Python files that add rewards of your own, see examples/level_horizon.py."""
