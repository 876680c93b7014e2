"""Models that lie ready on this machine, one folder a preset, so that neither the page nor a command need be told.

    $VGGRPO_MODELS/wan2.1-t2v-1.3b/pipeline           a WanPipeline folder
                                  /geometry           weights of the geometry model Φ
                                  /latent-geometry    a Φ_g that ``train-lgm`` exported

Each part may be missing, or be a link.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODELS = "VGGRPO_MODELS"
"""Environment variable that names the folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModels:
    """What lies there for one preset."""

    pipeline: Path | None = None
    geometry: Path | None = None
    latent_geometry: Path | None = None


def local_models(preset: str, variables: Mapping[str, str] | None = None) -> LocalModels:
    """The parts that are there; none where the variable is not set."""
    root = (os.environ if variables is None else variables).get(MODELS, "")
    if not root:
        return LocalModels()
    folder = Path(root).expanduser() / preset

    def present(name: str) -> Path | None:
        return folder / name if (folder / name).exists() else None

    return LocalModels(
        pipeline=present("pipeline"), geometry=present("geometry"), latent_geometry=present("latent-geometry")
    )
