"""A pair: two runs of one prompt and seed that differ in one thing (an adapter, guidance), in one folder.

``base/`` and ``tuned/`` are run folders; ``pair.json`` says what each side is. The folder is there whole or not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vggrpo.generation.request import GenerateRequest, Progress
from vggrpo.generation.studio import ShouldStop, Studio
from vggrpo.runtime import run_folder
from vggrpo.runtime.files import PAIR_MARKER, atomic_folder, require_writable
from vggrpo.runtime.run_folder import RunFolder

PAIR = PAIR_MARKER
Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = get_args(Side)

_SHARED = ("prompt", "seed", "preset", "first_frame")
"""What both sides must have in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRequest:
    """Both generations and what people call them. Raises a ValueError unless prompt, seed and preset are shared."""

    base: GenerateRequest
    tuned: GenerateRequest
    base_label: str
    tuned_label: str

    def __post_init__(self) -> None:
        """Two videos of different prompts or noise say nothing about an adapter."""
        if any(getattr(self.base, name) != getattr(self.tuned, name) for name in _SHARED):
            raise ValueError("the sides of a pair share prompt, seed and preset")

    def side(self, side: Side) -> GenerateRequest:
        """The request of one side."""
        return self.base if side == "base" else self.tuned


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFolder:
    """A finished pair."""

    path: Path

    def run(self, side: Side) -> RunFolder:
        """The run folder of one side."""
        return RunFolder(path=self.path / side)


def generate_pair(
    studio: Studio,
    request: PairRequest,
    out: Path,
    *,
    on_progress: Callable[[Side, Progress], None],
    should_stop: ShouldStop,
) -> PairFolder:
    """Write both runs and ``pair.json`` to ``out``, or nothing. Raises as ``Studio.generate`` does.

    Adapters are tried on before the first step, so that a wrong one is said at once and not after half the work.
    """
    require_writable(out.parent)
    for side in SIDES:
        adapter = request.side(side).adapter
        if adapter is not None:
            studio.require_fitting(adapter)
    with atomic_folder(out) as folder:
        for side in SIDES:

            def relay(progress: Progress, side: Side = side) -> None:
                on_progress(side, progress)

            studio.generate(request.side(side), folder / side, on_progress=relay, should_stop=should_stop)
        run_folder.write_json(folder / PAIR, _describe(request))
    return PairFolder(path=out)


def _describe(request: PairRequest) -> dict[str, object]:
    """The content of ``pair.json``; settings of each side are in its own manifest."""
    shared = {"prompt": request.base.prompt, "seed": request.base.seed, "preset": request.base.preset}
    return shared | {"base": {"label": request.base_label}, "tuned": {"label": request.tuned_label}}
