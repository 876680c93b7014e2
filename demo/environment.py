"""Where the page runs and what that allows, read from the environment in this one place.

On a person's own machine the page trusts whoever opens it. In public (a Hugging Face Space, or anywhere with
``VGGRPO_PUBLIC=1``) visitors are strangers to one another: each sees the fine-tunes that they started, and what one of
them may ask for, upload and keep has bounds.
"""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MEBIBYTE = 2**20
GIBIBYTE = 2**30
HOUR = 3600.0

PUBLIC = "VGGRPO_PUBLIC"
"""Environment variable: 1 treats visitors as strangers anywhere."""
FINETUNE = "VGGRPO_FINETUNE"
"""Environment variable: ``off`` shows the Fine-tune tab with everything but starting."""
RUNS = "VGGRPO_RUNS"
"""Environment variable: the folder that runs are written to."""
LASTING = Path("/data")
"""Where a Space mounts storage that outlives a restart, for those that have some."""

SWITCHED_OFF = "Fine-tuning is switched off on this server. Run the studio on your own machine to train."
NOT_ON_ZERO_GPU = (
    "This Space lends a GPU for seconds at a time, and a fine-tune needs it for as long as it takes, so nothing can be "
    "trained here. Duplicate the Space with a GPU of its own, or run the studio on your own machine."
)

_YES = {"1", "true", "yes", "on", "t"}
_NO = {"0", "off", "no", "false"}

Place = Literal["own machine", "Space", "ZeroGPU"]


class SettingError(ValueError):
    """An environment variable that makes no sense; the message is one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a visitor may ask for, upload and keep. The defaults are those of a person's own machine."""

    jobs_per_visitor: int = 8
    """Videos, scores and comparisons of one visitor at work or in line."""
    jobs: int = 12
    """The same of all visitors."""
    compared_prompts: int = 64
    steps: int = 200
    """Denoising steps of one video."""
    finetunes_per_visitor: int = 100
    """Fine-tunes of one visitor at work or in line."""
    finetune_videos: int | None = None
    """Videos that one fine-tune draws in all its iterations."""
    upload_bytes: int = 64 * MEBIBYTE
    """Of one request, whatever number of files it brings."""
    video_bytes: int = GIBIBYTE
    """Decoded frames of an uploaded video; the rest of it is not read."""
    image_pixels: int = 40_000_000
    geometry_bytes: int = 2 * GIBIBYTE
    """Of an uploaded geometry, unpacked."""
    reading_seconds: float = 60.0
    """For reading one uploaded file."""
    reading_memory: int = 3 * GIBIBYTE
    run_seconds: float = 24 * HOUR
    """Age at which a run goes, counted from when it was last opened."""
    finetune_seconds: float | None = None
    """The same for a fine-tune that has ended; None keeps them all."""
    run_bytes: int = 20 * GIBIBYTE
    """Disk for runs and what the page derives from them; the longest unused go first."""
    finetune_bytes: int = 20 * GIBIBYTE
    """The same for fine-tunes, where they are not all kept."""
    spare_bytes: int = GIBIBYTE
    """Free disk below which nothing is uploaded."""


STRANGERS = Limits(
    jobs_per_visitor=2,
    compared_prompts=16,
    steps=50,
    finetunes_per_visitor=1,
    finetune_videos=1000,
    video_bytes=512 * MEBIBYTE,
    image_pixels=25_000_000,
    geometry_bytes=256 * MEBIBYTE,
    reading_seconds=20.0,
    reading_memory=2 * GIBIBYTE,
    finetune_seconds=24 * HOUR,
    run_bytes=6 * GIBIBYTE,
    finetune_bytes=4 * GIBIBYTE,
)
"""What a stranger may do: with two processor cores a fine-tune of 1000 videos takes about an hour and a half."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the page runs. ``port`` and ``runs`` are None where nobody said."""

    place: Place = "own machine"
    is_public: bool = False
    port: int | None = None
    runs: Path | None = None
    why_no_training: str = ""
    """Why nothing can be trained here, in words for a visitor."""
    limits: Limits = field(default_factory=Limits)

    @property
    def lends_gpu(self) -> bool:
        """Whether a GPU is there only inside functions that ask for it (ZeroGPU)."""
        return self.place == "ZeroGPU"


def read_place(variables: Mapping[str, str] | None = None) -> Place:
    """Where the page runs."""
    given = os.environ if variables is None else variables
    if given.get("SPACES_ZERO_GPU", "").lower() in _YES:
        return "ZeroGPU"
    return "Space" if given.get("SPACE_ID") else "own machine"


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Read it from the process's environment. Raises ``SettingError`` for a port that is no number."""
    given = os.environ if variables is None else variables
    place = read_place(given)
    is_public = place != "own machine" or given.get(PUBLIC, "").lower() in _YES
    why_no_training = NOT_ON_ZERO_GPU if place == "ZeroGPU" else ""
    if given.get(FINETUNE, "").lower() in _NO:
        why_no_training = SWITCHED_OFF
    return Environment(
        place=place,
        is_public=is_public,
        port=_port(given),
        runs=Path(given[RUNS]) if given.get(RUNS) else None,
        why_no_training=why_no_training,
        limits=STRANGERS if is_public else Limits(),
    )


def runs_root(environment: Environment, *, asked: Path | None = None) -> Path:
    """The folder for runs: what was asked for as it is, else the first that can be written.

    The repository itself is never written to: on a Space it may be read-only, and its files are not for visitors.
    """
    if asked is not None or environment.runs is not None:
        chosen = asked or environment.runs
        assert chosen is not None
        return chosen
    temporary = Path(tempfile.gettempdir()) / "vggrpo-runs"
    has_lasting = environment.place != "own machine" and LASTING.is_dir()
    lasting = [LASTING / "vggrpo-runs"] if has_lasting else []
    for folder in (*lasting, temporary):
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return Path(tempfile.mkdtemp(prefix="vggrpo-runs-"))


def _port(given: Mapping[str, str]) -> int | None:
    """``GRADIO_SERVER_PORT`` as Gradio reads it, else the ``PORT`` of other hosts."""
    for name in ("GRADIO_SERVER_PORT", "PORT"):
        if text := given.get(name, ""):
            if not text.isdecimal():
                raise SettingError(f"{name} must be a port number, not {text!r}")
            return int(text)
    return None
