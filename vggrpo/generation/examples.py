"""The runs that ship in ``assets/examples``: what a visitor sees before any model is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vggrpo.generation.request import GenerateRequest
from vggrpo.generation.studio import Studio
from vggrpo.runtime.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A folder name, a prompt and a seed."""

    name: str
    prompt: str
    seed: int


EXAMPLES = (
    Example(
        name="orbit-left-red-blue",
        prompt="a red sphere and a blue cube on a grey checkered floor, the camera orbits left",
        seed=0,
    ),
    Example(
        name="hop-yellow",
        prompt="a yellow sphere on a beige tiled floor, the yellow sphere hops, the camera is static",
        seed=1,
    ),
    Example(
        name="dolly-in-purple-green",
        prompt="a purple cone and a green cylinder on a teal striped floor, the camera dollies in",
        seed=2,
    ),
    Example(
        name="truck-right-three",
        prompt="a green cube and an orange sphere and a blue cone on a beige checkered floor, the camera trucks right",
        seed=3,
    ),
    Example(
        name="crane-up-white-red",
        prompt="a white cylinder and a red cone on a grey dotted floor, the camera cranes up",
        seed=4,
    ),
    Example(
        name="pan-left-orange",
        prompt="an orange cube and a purple sphere on a teal tiled floor, the camera pans left",
        seed=5,
    ),
    Example(
        name="slide-right-blue",
        prompt="a blue sphere on a grey striped floor, the blue sphere slides right, the camera is static",
        seed=6,
    ),
    Example(
        name="orbit-right-green",
        prompt="a green cone and a white cube on a beige dotted floor, the camera orbits right",
        seed=7,
    ),
    Example(
        name="spin-red-cube",
        prompt="a red cube on a teal checkered floor, the red cube spins, the camera dollies out",
        seed=8,
    ),
)


def make_examples(studio: Studio, folder: Path) -> Iterator[RunFolder]:
    """Generate every example into ``folder/<name>``; yields each run as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        request = GenerateRequest(prompt=example.prompt, preset=studio.preset.name, seed=example.seed)
        yield studio.generate(request, folder / example.name)
