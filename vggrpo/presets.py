"""Named, frozen configurations. A preset says which models work together, and at which sizes."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from vggrpo.runtime.errors import UserError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
"""The shipped weights, examples and their MANIFEST."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolders:
    """Where a preset's weights lie, all safetensors; ``manifest`` lists their hashes relative to ``root``."""

    root: Path
    manifest: Path
    pipeline: Path
    """A ``WanPipeline`` folder."""
    geometry: Path
    """Φ."""
    latent_geometry: Path
    """Φ_g."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One video model with its geometry models. ``folders`` None: minimal classes with random weights, for tests."""

    name: str
    summary: str
    height: int
    width: int
    num_frames: int
    fps: int
    steps: int
    """Denoising steps unless asked otherwise."""
    guidance: float
    """Classifier-free guidance scale unless asked otherwise."""
    flow_shift: float
    max_tokens: int
    """Text embeddings are padded to this many tokens; longer prompts are refused."""
    folders: ModelFolders | None
    closed_vocabulary: bool
    """Whether the model knows the procedural world's words only."""

    @property
    def latent_frames(self) -> int:
        """T."""
        return (self.num_frames - 1) // 4 + 1


_TINY = Preset(
    name="tiny",
    summary="The embedded model: real Wan and Any4D classes, small, trained by this project on its procedural world.",
    height=128,
    width=128,
    num_frames=17,
    fps=8,
    steps=20,
    guidance=4.0,
    flow_shift=3.0,
    max_tokens=64,
    folders=ModelFolders(
        root=ASSETS,
        manifest=ASSETS / "MANIFEST.json",
        pipeline=ASSETS / "tiny",
        geometry=ASSETS / "tiny-geometry",
        latent_geometry=ASSETS / "tiny-lgm",
    ),
    closed_vocabulary=True,
)
_TINY_DEBUG = Preset(
    name="tiny-debug",
    summary="The same classes, minimal, with random weights: for tests, in seconds. What it shows means nothing.",
    height=64,
    width=64,
    num_frames=9,
    fps=8,
    steps=2,
    guidance=2.0,
    flow_shift=3.0,
    max_tokens=64,
    folders=None,
    closed_vocabulary=True,
)

PRESETS = MappingProxyType({preset.name: preset for preset in (_TINY, _TINY_DEBUG)})
"""Every preset by name."""


def get_preset(name: str) -> Preset:
    """The preset of a name. Raises a UserError that suggests the nearest one."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(PRESETS)}."
    raise UserError(f"There is no preset {name!r}: {hint}")
