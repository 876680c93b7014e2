"""Every geometry model Φ by name: what it gives, under which licences, how it is loaded or built."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

import torch
from torch import nn

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_checkpoint import ANY4D
from vggrpo.latent_geometry.foundation.any4d_config import DEBUG
from vggrpo.latent_geometry.foundation.any4d_start import start_from_scratch
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.latent_geometry.foundation.depth_anything_3 import (
    DepthAnything3,
    build_depth_anything_3,
    load_depth_anything_3,
)
from vggrpo.latent_geometry.foundation.model_folder import (
    CONFIG_NAME,
    Architecture,
    load_weights,
    own_config,
    save_folder,
)
from vggrpo.latent_geometry.foundation.stitchable import FoundationConfig, StitchableFoundation
from vggrpo.latent_geometry.foundation.vggt import VGGT
from vggrpo.latent_geometry.foundation.vggt_checkpoint import VGGT_1B
from vggrpo.latent_geometry.foundation.vggt_config import VGGT_DEBUG
from vggrpo.runtime.errors import UserError

Size = Literal["full", "debug"] | Path
"""Released sizes, the smallest useful ones, or those of a folder of ours; Depth Anything 3 has one only."""
DEFAULT_GEOMETRY_MODEL = "any4d"


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryModelInfo:
    """What one should know of a geometry model before using it.

    ``hub_repo`` and ``hub_file`` are where its weights are published (``gigabytes`` to fetch). ``static_only``: it
    gives no scene flow, so everything is taken to stand still. ``metric``: lengths are metres; else in a scale of their
    own. ``stitchable``: it can stand under Φ_g (``train-lgm``). ``skipped``: official parts that are not loaded, by
    choice.
    """

    name: str
    title: str
    summary: str
    licence_code: str
    licence_weights: str
    homepage: str
    hub_repo: str
    hub_file: str
    gigabytes: float
    patch_size: int
    static_only: bool
    metric: bool
    stitchable: bool
    skipped: tuple[str, ...] = ()

    def notice(self) -> str:
        """One line to print when the model is loaded."""
        skipped = f"; not loaded: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.title}: code {self.licence_code}; weights {self.licence_weights}{skipped} ({self.homepage})"


_ANY4D = GeometryModelInfo(
    name="any4d",
    title="Any4D",
    summary="Cameras, depth, points and scene flow of moving scenes in metres; the default.",
    licence_code="ours, written from the paper and golden tensors (official code: Apache-2.0)",
    licence_weights="not stated by their authors; ask before you publish results made with them",
    homepage="https://github.com/Any-4D/Any4D",
    hub_repo="airlabshare/any4d-checkpoint",
    hub_file="any4d_4v_combined.pth",
    gigabytes=2.5,
    patch_size=14,
    static_only=False,
    metric=True,
    stitchable=True,
    skipped=("the seven encoders of geometric inputs (a video has none)",),
)
_VGGT = GeometryModelInfo(
    name="vggt",
    title="VGGT",
    summary="Cameras, depth and points of scenes that stand still, in a scale of their own.",
    licence_code="ours, written from the paper and golden tensors (official code: VGGT License v1)",
    licence_weights="VGGT-1B: non-commercial; VGGT-1B-Commercial (gated): commercial use allowed",
    homepage="https://github.com/facebookresearch/vggt",
    hub_repo="facebook/VGGT-1B",
    hub_file="model.safetensors",
    gigabytes=5.0,
    patch_size=14,
    static_only=True,
    metric=False,
    stitchable=True,
    skipped=("track_head (2-D point tracks)",),
)
_DEPTH_ANYTHING_3 = GeometryModelInfo(
    name="depth-anything-3",
    title="Depth Anything 3",
    summary="Cameras, depth and points of scenes that stand still; small, through its own package (optional).",
    licence_code="Apache-2.0 (the installed package's)",
    licence_weights="SMALL and BASE: Apache-2.0; LARGE: CC-BY-NC-4.0",
    homepage="https://github.com/ByteDance-Seed/Depth-Anything-3",
    hub_repo="depth-anything/DA3-BASE",
    hub_file="model.safetensors",
    gigabytes=0.6,
    patch_size=14,
    static_only=True,
    metric=False,
    stitchable=True,
)
GEOMETRY_MODELS: Mapping[str, GeometryModelInfo] = MappingProxyType(
    {info.name: info for info in (_ANY4D, _VGGT, _DEPTH_ANYTHING_3)}
)
"""Every geometry model by name."""

_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({"any4d": ANY4D, "vggt": VGGT_1B})
_DEBUG_CONFIGS: Mapping[str, FoundationConfig] = MappingProxyType({"any4d": DEBUG, "vggt": VGGT_DEBUG})


def geometry_info(name: str) -> GeometryModelInfo:
    """What is known of a model. Raises a UserError that suggests the nearest name."""
    if name in GEOMETRY_MODELS:
        return GEOMETRY_MODELS[name]
    near = difflib.get_close_matches(name, GEOMETRY_MODELS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(GEOMETRY_MODELS)}."
    raise UserError(f"There is no geometry model {name!r}: {hint}")


def load_geometry(
    name: str, source: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> GeometryModel:
    """A frozen Φ in evaluation mode, from a folder of ours, an official folder, or an official weight file.

    ``dtype`` bfloat16 leaves the heads that need more digits in float32.

    Raises:
        UserError: there is no such model, or the weights are missing, damaged, or another model's.
    """
    if geometry_info(name) is _DEPTH_ANYTHING_3:
        return _frozen(load_depth_anything_3(source), device=device, dtype=dtype)
    return _frozen(load_weights(source, _ARCHITECTURES[name]), device=device, dtype=dtype)


def build_geometry(
    name: str,
    *,
    random_seed: int,
    size: Size = "full",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GeometryModel:
    """A frozen Φ with random weights: geometry that means nothing, but that every reward can measure.

    It is made on ``device`` itself; ``meta`` gives the module without memory. No weights are read for a ``size`` that
    is a folder.

    Raises:
        UserError: there is no such model, or no configuration in the folder.
    """
    place = torch.device(device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
        torch.manual_seed(random_seed)
        return _frozen(_random_model(name, size), device=place, dtype=dtype)


def save_geometry(model: GeometryModel, folder: Path) -> None:
    """Write a model of ours as a folder that ``load_geometry`` reads.

    Raises:
        TypeError: it is none of ours.
    """
    for architecture in _ARCHITECTURES.values():
        if isinstance(model, StitchableFoundation) and isinstance(model.config, type(architecture.config)):
            save_folder(model, architecture, folder)
            return
    raise TypeError(f"{type(model).__name__} is no geometry model of this package: it cannot be saved")


def _random_model(name: str, size: Size) -> StitchableFoundation | DepthAnything3:
    if geometry_info(name) is _DEPTH_ANYTHING_3:
        return build_depth_anything_3()
    architecture = _ARCHITECTURES[name]
    model = architecture.build(_config_of(architecture, size))
    if model.vit.pos_embed.is_meta:
        return model
    if isinstance(model, Any4D):
        start_from_scratch(model)
    elif isinstance(model, VGGT):
        model.start_from_scratch()
    return model


def _config_of(architecture: Architecture, size: Size) -> FoundationConfig:
    if isinstance(size, Path):
        config = own_config(size, architecture)
        if config is None:
            raise UserError(f"no {CONFIG_NAME} of a geometry model of ours in {size}")
        return config
    return architecture.config if size == "full" else _DEBUG_CONFIGS[architecture.name]


def _frozen(
    model: StitchableFoundation | DepthAnything3, *, device: torch.device | str, dtype: torch.dtype
) -> GeometryModel:
    if dtype == torch.bfloat16:
        model.to_bfloat16()
    elif dtype != torch.float32:
        model.to(dtype)
    module = cast(nn.Module, model).to(device).eval().requires_grad_(requires_grad=False)
    return cast(GeometryModel, module)
