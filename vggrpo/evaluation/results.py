"""Result files: the raw numbers behind a table or a figure, and everything needed to make them again.

One JSON object a file. Above the numbers stands where they come from: the command, when and how long it ran, on what,
with which versions, seeds and weights. Figures and tables are drawn from these files alone, never from a run.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

import vggrpo
from vggrpo.runtime.device import describe_device
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text, require_writable
from vggrpo.runtime.integrity import sha256_of

RESULTS = Path(__file__).resolve().parents[2] / "assets" / "results"
"""Where results that ship lie: NAME.json beside its picture NAME.png."""
FORMAT = 1
"""Raised when a reader of older files would misread them."""
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "opencv-python-headless")

_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where numbers come from.

    ``command`` makes them again; ``date`` is UTC in ISO 8601; ``seconds`` is how long it took, summed over the parts
    of a run that was cut off; ``seeds`` holds every number that decides a draw; ``weights`` names each part's file or
    folder by the first digits of a SHA-256: ``weights_digest`` of files, ``weights_sketch`` of loaded models.
    """

    command: str
    date: str
    seconds: float
    device: str
    versions: Mapping[str, str]
    preset: str
    seeds: Mapping[str, int]
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Numbers of one ``kind`` ("contest", "robustness", "cost" …) as plain JSON, with their provenance."""

    kind: str
    provenance: Provenance
    content: Mapping[str, object]


def result_path(name: str) -> Path:
    """Where ``--record`` writes the result of a name."""
    return RESULTS / f"{name}.json"


def take_provenance(
    command: str,
    *,
    preset: str,
    device: torch.device,
    seconds: float,
    seeds: Mapping[str, int],
    weights: Mapping[str, str] | None = None,
) -> Provenance:
    """The provenance of numbers that were measured just now, on ``device``, by this process."""
    installed = {one.name: one.version for name in LIBRARIES for one in metadata.distributions(name=name)}
    return Provenance(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        device=describe_device(device),
        versions={"vggrpo": vggrpo.__version__, "python": platform.python_version(), **installed},
        preset=preset,
        seeds=dict(seeds),
        weights=dict(weights or {}),
    )


def weights_digest(path: Path) -> str:
    """12 hexadecimal digits that name the weights in a file, or in a folder (its .safetensors files by name).

    Raises a UserError where there are none.
    """
    if path.is_file():
        return sha256_of(path)[:_DIGITS]
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        raise UserError(f"{path} holds no weights (.safetensors): give the file or folder that a training wrote.")
    together = hashlib.sha256()
    for file in files:
        together.update(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n".encode())
    return together.hexdigest()[:_DIGITS]


def write_result(path: Path, result: Result) -> None:
    """Write a result file, whole or not at all; its folder is made.

    Raises:
        ValueError: a NaN or an infinity is among the numbers: what was not measured is null, with a reason beside it.
        UserError: the folder cannot be written.
    """
    content = {"format": FORMAT, "kind": result.kind, **asdict(result.provenance), "result": result.content}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    require_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)


def read_result(path: Path, *, kind: str) -> Result:
    """Read a result file of a kind.

    Raises:
        UserError: it is not there, is no result file, or holds numbers of another kind or a newer format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: record a result first, with --record.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a result file: {error}.") from error
    expected = {"format", "kind", "result", *Provenance.__dataclass_fields__}
    if not isinstance(content, dict) or not expected <= content.keys() or not isinstance(content["result"], dict):
        raise UserError(f"{path} is not a result file: make it again with --record.")
    if content["format"] != FORMAT or content["kind"] != kind:
        raise UserError(
            f"{path} holds {content['kind']!r} in format {content['format']}, not {kind!r} in format {FORMAT}: make it "
            "again with --record."
        )
    provenance = Provenance(**{name: content[name] for name in Provenance.__dataclass_fields__})
    return Result(kind=kind, provenance=provenance, content=content["result"])
