"""Named, frozen configurations. A preset says which models work together, and at which sizes."""

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from vggrpo.policy.wan_sizes import WAN21_1_3B, WAN22_TI2V_5B, WAN_NEGATIVE_PROMPT, WanSizes
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.hub import HubRepo

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
    geometry_judge: Path
    """The independent geometry model that evaluation judges with; no training ever asks it."""
    object_judge: Path
    """The judge of objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One video model with its geometry models.

    Its weights ship in ``folders``, or come from ``hub`` (or a folder that the user names); neither: minimal classes
    with random weights, for tests.
    """

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
    latent_channels: int = 16
    spatial_factor: int = 8
    """Pixels a side of one latent cell."""
    takes_first_frame: bool = True
    """Whether a video can start from a picture: latent frames then have timesteps of their own."""
    negative_prompt: str = ""
    """What guidance leads away from; the same in training and evaluation."""
    geometry: str = "any4d"
    """The geometry model Φ unless asked otherwise."""
    geometry_choices: tuple[str, ...] = ("any4d",)
    hub: HubRepo | None = None
    sizes: WanSizes | None = None
    """The released model's sizes, where there is one."""
    memory_need: str = "any CPU"
    """What it takes to run, for people."""

    @property
    def latent_frames(self) -> int:
        """T."""
        return (self.num_frames - 1) // 4 + 1

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """C, T, h, w of one video."""
        cells = (self.height // self.spatial_factor, self.width // self.spatial_factor)
        return (self.latent_channels, self.latent_frames, *cells)

    @property
    def is_released_model(self) -> bool:
        """Whether the weights are a released model's: large, on a hub, for a GPU."""
        return self.hub is not None

    def sized(self, *, height: int | None = None, width: int | None = None, frames: int | None = None) -> "Preset":
        """The same preset for other videos; None keeps a size. Raises a UserError for what its models cannot draw."""
        own = (self.height, self.width, self.num_frames)
        given = (height, width, frames)
        asked = tuple(mine if other is None else other for mine, other in zip(own, given, strict=True))
        if asked == own:
            return self
        if not self.is_released_model:
            raise UserError(
                f"{self.name} was trained at {self.width}×{self.height} and {self.num_frames} frames and draws nothing "
                "else: leave out --height, --width and --frames."
            )
        side = 2 * self.spatial_factor
        for option, pixels in (("--height", asked[0]), ("--width", asked[1])):
            if pixels <= 0 or pixels % side:
                near = max(side, round(pixels / side) * side)
                raise UserError(f"{option} is {pixels}: {self.name} needs a multiple of {side}, for example {near}.")
        if asked[2] < 5 or asked[2] % 4 != 1:
            near = max(5, round((asked[2] - 1) / 4) * 4 + 1)
            raise UserError(f"--frames is {asked[2]}: {self.name} needs 4 n + 1 frames, for example {near}.")
        return replace(self, height=asked[0], width=asked[1], num_frames=asked[2])


_TINY = Preset(
    name="tiny",
    summary="The embedded model: real Wan and Any4D classes, small, trained by this project on its procedural world.",
    height=128,
    width=128,
    num_frames=17,
    fps=8,
    steps=20,
    guidance=2.0,
    flow_shift=3.0,
    max_tokens=64,
    folders=ModelFolders(
        root=ASSETS,
        manifest=ASSETS / "MANIFEST.json",
        pipeline=ASSETS / "tiny",
        geometry=ASSETS / "tiny-geometry",
        latent_geometry=ASSETS / "tiny-lgm",
        geometry_judge=ASSETS / "tiny-geometry-judge",
        object_judge=ASSETS / "tiny-judge",
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
# Only what the pipeline reads: repositories also hold pictures and the same weights in other formats.
_WAN_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
)
_WAN21 = Preset(
    name="wan2.1-t2v-1.3b",
    summary="Wan 2.1, text to video, 1.3 billion parameters.",
    height=480,
    width=832,
    num_frames=81,
    fps=16,
    steps=50,
    guidance=5.0,
    flow_shift=3.0,
    max_tokens=512,
    folders=None,
    closed_vocabulary=False,
    takes_first_frame=False,
    negative_prompt=WAN_NEGATIVE_PROMPT,
    geometry_choices=("any4d", "vggt"),
    hub=HubRepo(repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", patterns=_WAN_FILES, licence="Apache-2.0", gigabytes=29.0),
    sizes=WAN21_1_3B,
    memory_need="one GPU with 24 GB",
)
_WAN22 = Preset(
    name="wan2.2-ti2v-5b",
    summary="Wan 2.2, text (and a first frame) to video, 5 billion parameters.",
    height=704,
    width=1280,
    num_frames=121,
    fps=24,
    steps=50,
    guidance=5.0,
    flow_shift=5.0,
    max_tokens=512,
    folders=None,
    closed_vocabulary=False,
    latent_channels=48,
    spatial_factor=16,
    negative_prompt=WAN_NEGATIVE_PROMPT,
    geometry_choices=("any4d", "vggt"),
    hub=HubRepo(repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers", patterns=_WAN_FILES, licence="Apache-2.0", gigabytes=34.0),
    sizes=WAN22_TI2V_5B,
    memory_need="one GPU with 80 GB, or several",
)

PRESETS = MappingProxyType({preset.name: preset for preset in (_TINY, _TINY_DEBUG, _WAN21, _WAN22)})
"""Every preset by name."""


def get_preset(name: str) -> Preset:
    """The preset of a name. Raises a UserError that suggests the nearest one."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(PRESETS)}."
    raise UserError(f"There is no preset {name!r}: {hint}")
