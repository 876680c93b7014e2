"""The example runs that ship with the page: which they are, and how they are made small."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vggrpo.runtime import run_folder
from vggrpo.runtime.array_archive import archive_bytes
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_bytes
from vggrpo.runtime.run_folder import RunFolder
from vggrpo.types import ClipGeometry

THINNING = 2
"""Every second pixel of both axes: a quarter of the size, and still more points than the viewer shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One shipped run. Names are ordered as the gallery shows them."""

    name: str
    prompt: str
    seed: int = 0


EXAMPLES = (
    Example(
        name="01-orbit-sphere-cube",
        prompt="a red sphere and a blue cube on a grey checkered floor, the camera orbits left",
    ),
    Example(
        name="02-sliding-cylinder",
        prompt="an orange cylinder and a white cone on a teal tiled floor, the orange cylinder slides right, "
        "the camera is static",
        seed=1,
    ),
    Example(
        name="03-dolly-in", prompt="a green cone and a purple sphere on a beige striped floor, the camera dollies in"
    ),
    Example(
        name="04-hopping-sphere",
        prompt="a yellow sphere and a black cube on a grey dotted floor, the yellow sphere hops, "
        "the camera trucks right",
    ),
    Example(
        name="05-crane-cube-cylinder",
        prompt="a red cube and a green cylinder on a beige checkered floor, the camera cranes up",
        seed=2,
    ),
    Example(
        name="06-spinning-cube",
        prompt="a blue cube and an orange cone on a grey tiled floor, the blue cube spins, the camera orbits right",
        seed=3,
    ),
    Example(
        name="07-pan", prompt="a purple cylinder and a yellow cone on a teal checkered floor, the camera pans left"
    ),
    Example(
        name="08-dolly-out",
        prompt="a white cube and a red cone on a beige dotted floor, the camera dollies out",
        seed=4,
    ),
    Example(name="09-static-lone-sphere", prompt="a blue sphere on a grey striped floor, the camera is static"),
)

PAIRS = (
    Example(
        name="01-orbit",
        prompt="a red sphere and a blue cube on a grey checkered floor, the camera orbits left",
        seed=20,
    ),
    Example(
        name="02-dolly-in",
        prompt="a green cone and a purple sphere on a beige striped floor, the camera dollies in",
        seed=21,
    ),
    Example(
        name="03-truck",
        prompt="a yellow sphere and a black cube on a grey dotted floor, the camera trucks right",
        seed=22,
    ),
    Example(
        name="04-crane",
        prompt="a red cube and a green cylinder on a beige checkered floor, the camera cranes up",
        seed=23,
    ),
    Example(
        name="05-pan-moving",
        prompt="a purple cylinder and a yellow cone on a teal checkered floor, the yellow cone slides left, "
        "the camera pans left",
        seed=24,
    ),
    Example(
        name="06-orbit-right",
        prompt="a blue cube and an orange cone on a grey tiled floor, the camera orbits right",
        seed=25,
    ),
)
"""The shipped pairs: prompts and seeds were written down before any adapter was trained, and none was chosen by its
result."""
PAIRS_FOLDER = "pairs"


def adapter_name(adapter: Path) -> str:
    """What the page calls an adapter: its folder's name, or the file's where that says more than diffusers' own."""
    is_plain = adapter.is_file() and adapter.stem != "pytorch_lora_weights"
    return adapter.stem if is_plain else (adapter.parent if adapter.is_file() else adapter).name


def thin_pair_side(run: RunFolder) -> None:
    """``thin``, and no recording: the page makes it anew when the pair is opened."""
    thin(run)
    run.file(run_folder.SCENE).unlink()
    manifest = run.manifest()
    files = manifest["files"]
    assert isinstance(files, list), "the studio writes a list"
    kept = [name for name in files if name != run_folder.SCENE]
    run_folder.write_manifest(run.file(run_folder.MANIFEST), manifest | {"files": kept})


def thin(run: RunFolder) -> None:
    """Keep every second pixel of a run's geometry and error maps, so that ten examples fit in a repository.

    The kept pixels are the centres of a coarser grid, so intrinsics follow; rewards stay those of the full geometry.
    """
    run_folder.write_geometry(run.file(run_folder.GEOMETRY), thin_geometry(run.geometry()))
    maps = run.file(run_folder.ERROR_MAPS)
    with np.load(maps, allow_pickle=False) as archive:
        thinned = {name: archive[name][:, ::THINNING, ::THINNING] for name in archive.files}
    atomic_write_bytes(maps, archive_bytes(thinned))
    note = f"geometry and error maps are thinned to every {THINNING}nd pixel; rewards are of the full geometry"
    run_folder.write_manifest(run.file(run_folder.MANIFEST), run.manifest() | {"notes": [note]})


def thin_geometry(geometry: ClipGeometry) -> ClipGeometry:
    """Every ``THINNING``-th pixel; pixel (j + 0.5) of the fine grid becomes (j / THINNING + 0.5) of the coarse one."""
    intrinsics = geometry.intrinsics.copy()
    intrinsics[:, :2] /= THINNING
    intrinsics[:, :2, 2] += 0.5 - 0.5 / THINNING
    grid = (slice(None), slice(None, None, THINNING), slice(None, None, THINNING))
    return replace(
        geometry,
        intrinsics=intrinsics,
        depth=geometry.depth[grid],
        points=geometry.points[grid],
        scene_flow=geometry.scene_flow[grid],
        confidence=geometry.confidence[grid],
        valid=geometry.valid[grid],
    )


def chosen_examples(only: tuple[str, ...], *, among: tuple[Example, ...] = EXAMPLES) -> tuple[Example, ...]:
    """The examples (or pairs) of some names. Raises a UserError for a name that there is not."""
    names = [example.name for example in among]
    for name in only:
        if name not in names:
            raise UserError(f"There is no example {name!r}; choose from {', '.join(names)}.")
    return tuple(example for example in among if not only or example.name in only)


def folder_of(example: Example, out: Path) -> Path:
    """Where an example's run lies."""
    return out / example.name
