"""Geometry models on disk: folders of our own (``config.json`` and shards), and official files at official size."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vggrpo.latent_geometry.foundation.stitchable import FoundationConfig, StitchableFoundation
from vggrpo.latent_geometry.foundation.weight_files import (
    WeightLayout,
    fill,
    published_file,
    read_shards,
    read_state,
    require_plausible,
    write_shards,
)
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text

CONFIG_NAME = "config.json"
MODEL_KEY = "model"
"""Entry of ``config.json`` that names the architecture; folders without it hold Any4D, which came first."""
DEFAULT_MODEL = "any4d"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of our own modules: how it is built and how its weights are named.

    ``config`` is the released size. ``official_files`` are the names its weights are published under, best first.
    """

    name: str
    config: FoundationConfig
    build: Callable[[Any], StitchableFoundation]
    layout: WeightLayout
    official_files: tuple[str, ...]

    @property
    def title(self) -> str:
        """As people write it."""
        return self.layout.title

    def on_meta(self, config: FoundationConfig) -> StitchableFoundation:
        """The module without memory for its weights."""
        with torch.device("meta"):
            return self.build(config)


def save_folder(model: StitchableFoundation, architecture: Architecture, folder: Path) -> None:
    """Write ``config.json`` and ``model*.safetensors`` shards (bfloat16, except the heads that need more digits)."""
    write_shards(model, folder, full_precision=model.full_precision_prefixes)
    values = {MODEL_KEY: architecture.name, **asdict(model.config)}
    atomic_write_text(folder / CONFIG_NAME, json.dumps(values, indent=2) + "\n")


def load_weights(source: Path, architecture: Architecture) -> StitchableFoundation:
    """A model from a folder of ours, an official folder or an official file; float32, evaluation mode, on the CPU.

    Raises:
        UserError: a file is missing, damaged, of a kind that is not read, or another model's.
    """
    config = own_config(source, architecture)
    model = architecture.on_meta(architecture.config if config is None else config)
    if config is None:
        path = published_file(source, names=architecture.official_files, title=architecture.title)
        require_plausible(path, numbers=sum(one.numel() for one in model.parameters()), title=architecture.title)
        state = read_state(path)
    else:
        path = source
        state = read_shards(source)
    try:
        fill(model, {name: tensor.float() for name, tensor in state.items()}, layout=architecture.layout)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    model.set_constants(torch.device("cpu"))
    return model.eval()


def own_config(source: Path, architecture: Architecture) -> FoundationConfig | None:
    """The sizes that a folder of ours states; None for official files, whose size is the released one."""
    path = source / CONFIG_NAME
    if not path.is_file():
        return None
    try:
        given: dict[str, Any] = json.loads(path.read_text())
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }
        named = values.pop(MODEL_KEY, DEFAULT_MODEL)
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path} does not describe a geometry model ({error}); fetch or train it again") from error
    kind = type(architecture.config)
    known = {field.name for field in fields(kind)}
    is_official = MODEL_KEY not in given and not known >= values.keys()
    if is_official and any((source / name).is_file() for name in architecture.official_files):
        return None
    if named != architecture.name:
        raise UserError(
            f"{source} holds the geometry model {named!r}, not {architecture.name!r}: say --geometry {named}"
        )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe {architecture.title} ({error}); fetch or train it again") from error
