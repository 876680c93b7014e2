"""The judges of a preset: which independent geometry model and which judge of objects, checked, then loaded.

Independent means: never a reward and never a teacher. The embedded model has a judge of its own that ships with it;
released models are judged by another geometry model than the one that rewards.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from vggrpo.evaluation.judges import ClipJudges
from vggrpo.evaluation.object_judge import ObjectJudge
from vggrpo.generation.models import LoadListener, Models, fetch_geometry
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.registry import build_geometry, geometry_info, load_geometry
from vggrpo.presets import Preset
from vggrpo.runtime.device import choose_dtype
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.weights_sketch import weights_sketch

DEBUG_SEED = 1
"""Random weights of the debug preset's judge; its Φ has those of seed 0."""
DIGITS = 12
"""Of a weights sketch that is told to people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeChoice:
    """What a user may say of the judges; None leaves it to the preset."""

    geometry: str | None = None
    """Name of the independent geometry model."""
    weights: Path | None = None
    """Its weights: a folder, or one file."""
    objects: Path | None = None
    """The folder of a judge of objects."""


@dataclass(frozen=True, kw_only=True)
class LoadedJudges:
    """The judges, and what a report says of them."""

    judges: ClipJudges
    description: dict[str, object]


def check_judges(preset: Preset, choice: JudgeChoice, *, reward_geometry: str | None = None) -> None:
    """Everything that can be wrong with a choice, said before anything is loaded.

    Raises:
        UserError: no such model, no such folder, no judge shipped yet, or a judge that would judge its own reward.
    """
    name = _name_of(preset, choice, reward_geometry=reward_geometry)
    info = geometry_info(name)
    for option, path in (("--judge-weights", choice.weights), ("--judge", choice.objects)):
        if path is not None and not path.exists():
            raise UserError(f"{option} {path} does not exist.")
    if choice.weights is not None:
        return
    if preset.folders is not None and name == preset.geometry:
        if not preset.folders.geometry_judge.is_dir():
            raise UserError(
                f"{preset.name} ships no independent geometry model yet: make one with `python -m vggrpo pretrain "
                "geometry --judge` and give --judge-weights runs/geometry-judge/model."
            )
        return
    if preset.is_released_model and name == (reward_geometry or preset.geometry):
        raise UserError(
            f"{info.title} is what rewards here, so it is no independent judge: choose another --judge-geometry, or "
            "give other weights of it with --judge-weights."
        )


def load_judges(
    preset: Preset,
    choice: JudgeChoice,
    *,
    models: Models,
    reward_geometry: str | None = None,
    offline: bool = False,
    listener: LoadListener | None = None,
) -> LoadedJudges:
    """The judges on the models' device.

    Raises:
        UserError: as ``check_judges``; weights are missing, damaged, or those of the geometry model that rewards.
    """
    check_judges(preset, choice, reward_geometry=reward_geometry)
    listener = listener or LoadListener()
    name = _name_of(preset, choice, reward_geometry=reward_geometry)
    geometry = _load(preset, choice, name=name, device=models.device, offline=offline, listener=listener)
    sketch = weights_sketch(cast(nn.Module, geometry))
    if name == (reward_geometry or preset.geometry) and sketch == weights_sketch(cast(nn.Module, models.geometry)):
        raise UserError(
            f"--judge-weights {choice.weights} are those of the geometry model that rewards: it cannot judge itself."
        )
    folder = choice.objects or _shipped_object_judge(preset)
    objects = None if folder is None else ObjectJudge.load(folder)
    info = geometry_info(name)
    return LoadedJudges(
        judges=ClipJudges(geometry=geometry, objects=objects, device=models.device),
        description={
            "geometry": info.title,
            "geometry_weights": sketch[:DIGITS],
            "objects": None if objects is None else weights_sketch(objects)[:DIGITS],
        },
    )


def _load(
    preset: Preset,
    choice: JudgeChoice,
    *,
    name: str,
    device: torch.device,
    offline: bool,
    listener: LoadListener,
) -> GeometryModel:
    """The independent geometry model, from where the user, the preset or its authors keep it."""
    source = choice.weights
    if source is None and preset.folders is not None and name == preset.geometry:
        source = preset.folders.geometry_judge
    elif source is None and preset.folders is None and not preset.is_released_model:
        return build_geometry(name, random_seed=DEBUG_SEED, size="debug", device=device)
    elif source is None:
        info = geometry_info(name)
        listener.line(info.notice())
        source = fetch_geometry(info, offline=offline, on_bytes=listener.on_bytes)
    dtype = choose_dtype(device) if preset.is_released_model else torch.float32
    return load_geometry(name, source, device=device, dtype=dtype)


def _name_of(preset: Preset, choice: JudgeChoice, *, reward_geometry: str | None) -> str:
    """The embedded model is judged by another training of its own class, a released one by another model."""
    if choice.geometry is not None:
        return choice.geometry
    if not preset.is_released_model:
        return preset.geometry
    rewards = reward_geometry or preset.geometry
    return next((name for name in preset.geometry_choices if name != rewards), rewards)


def _shipped_object_judge(preset: Preset) -> Path | None:
    """The preset's own, where it ships."""
    folder = None if preset.folders is None else preset.folders.object_judge
    return folder if folder is not None and folder.is_dir() else None
