"""Where a preset's weights come from, as the user says it."""

from dataclasses import dataclass, replace
from pathlib import Path

from vggrpo.presets import Preset
from vggrpo.runtime.local_models import local_models


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

    def at_hand(self, preset: Preset) -> "LoadOptions":
        """The same, with what lies ready on this machine for a released preset in place of what was not said.

        Φ_g that lies ready belongs to the video model beside it, so it is not put behind one that the user names.
        """
        if not preset.is_released_model:
            return self
        found = local_models(preset.name)
        is_theirs = self.model_folder is not None or self.geometry not in {None, preset.geometry}
        return replace(
            self,
            model_folder=self.model_folder or found.pipeline,
            geometry_weights=self.geometry_weights or (None if is_theirs else found.geometry),
            latent_geometry=self.latent_geometry or (None if is_theirs else found.latent_geometry),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSize:
    """Height, width and number of frames; None keeps the preset's."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
