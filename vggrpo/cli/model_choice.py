"""From the options that choose models to a loaded studio, with what a person should hear on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vggrpo.cli.options import WeightsChoice
from vggrpo.cli.terminal import PhaseProgress, note
from vggrpo.presets import Preset, get_preset
from vggrpo.runtime.errors import UserError

if TYPE_CHECKING:
    from vggrpo.generation import Studio
    from vggrpo.generation.models import LoadListener

_MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetched:
    """How much of the weights has arrived, in megabytes, as ``PhaseProgress`` shows it."""

    phase: str
    done: int
    total: int
    seconds_left: float | None


def check_choice(choice: WeightsChoice) -> Preset:
    """The preset at the asked size. Raises a UserError for what can be seen to be wrong before anything is loaded."""
    preset = get_preset(choice.preset).sized(height=choice.height, width=choice.width, frames=choice.frames)
    for path in (choice.model_folder, choice.geometry_weights, choice.latent_geometry):
        if path is not None and not path.exists():
            raise UserError(f"{path} does not exist.")
    return preset


def open_studio(choice: WeightsChoice, progress: PhaseProgress) -> "Studio":
    """Load what was chosen. Raises a UserError as ``Studio.load`` does."""
    from vggrpo.generation import Studio
    from vggrpo.generation.options import LoadOptions, VideoSize

    options = LoadOptions(
        model_folder=choice.model_folder,
        geometry=choice.geometry_model_name,
        geometry_weights=choice.geometry_weights,
        latent_geometry=choice.latent_geometry,
        offline=choice.offline,
    )
    size = VideoSize(height=choice.height, width=choice.width, frames=choice.frames)
    return Studio.load(choice.preset, options, size=size, listener=load_listener(progress))


def load_listener(progress: PhaseProgress) -> "LoadListener":
    """Notes and licence lines on standard error, and a bar of megabytes while weights are fetched."""
    from vggrpo.generation.models import LoadListener

    return LoadListener(line=lambda text: note(f"note: {text}"), on_bytes=_bytes_bar(progress))


def _bytes_bar(progress: PhaseProgress) -> Callable[[int, int], None]:
    began = time.monotonic()

    def on_bytes(done: int, total: int) -> None:
        left = (time.monotonic() - began) * (total - done) / done if done else None
        progress.show(
            _Fetched(phase="fetch, MB", done=done // _MEGABYTE, total=max(total // _MEGABYTE, 1), seconds_left=left)
        )

    return on_bytes
