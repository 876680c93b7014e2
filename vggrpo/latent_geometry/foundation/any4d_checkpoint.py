"""Any4D weights from a file: official checkpoints and our own, with every difference reported by name."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - only the error by which torch.load refuses code in a file
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_config import Any4DConfig
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text

CONFIG_NAME = "config.json"
WEIGHTS_PATTERN = "model{suffix}.safetensors"
MAX_SHARD = "8MB"
"""A plain git push to a Space refuses files of more than 10 MB."""

# Encoders of geometric inputs (poses, depths, rays, flow): unused where the input is a video.
DROPPED_SUBMODULES = (
    "cam_rot_encoder",
    "cam_trans_encoder",
    "cam_trans_scale_encoder",
    "depth_encoder",
    "depth_scale_encoder",
    "ray_dirs_encoder",
    "scene_flow_encoder",
)
# Official checkpoints hold these tensors twice, because the same module is registered under two names.
_SEQUENTIAL_ALIASES = (
    ("dense_head.0.", "dpt_feature_head."),
    ("dense_head.1.", "dpt_regressor_head."),
    ("scene_flow_dense_head.0.", "scene_flow_dpt_feature_head."),
    ("scene_flow_dense_head.1.", "scene_flow_dpt_regressor_head."),
)
_PYRAMID_ALIASES = tuple(
    (f"{head}.{alias}", f"{head}.scratch.layer{index + 1}_rn.")
    for head in ("dpt_feature_head", "scene_flow_dpt_feature_head")
    for index in range(4)
    for alias in (f"scratch.layer_rn.{index}.", f"input_process.{index}.1.")
)
ALIASES = (*_SEQUENTIAL_ALIASES, *_PYRAMID_ALIASES)
NAMES_SHOWN = 8


def canonical_key(key: str) -> str | None:
    """The one name under which this package keeps an official tensor, or None for a dropped submodule."""
    if key.split(".", maxsplit=1)[0] in DROPPED_SUBMODULES:
        return None
    for alias, stored in ALIASES:
        if key.startswith(alias):
            key = stored + key.removeprefix(alias)
    return key


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map every alias to its stored name once.

    Raises:
        UserError: two copies of one tensor differ.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = canonical_key(key)
        if name is None:
            continue
        if name in result and not torch.equal(result[name], tensor):
            raise UserError(f"the Any4D weights contradict themselves: {key!r} differs from its copy {name!r}")
        result[name] = tensor
    return result


def load_any4d_weights(model: Any4D, state: Mapping[str, Tensor]) -> None:
    """Copy official or own weights into ``model``.

    Raises:
        UserError: names or shapes do not match; the message names them.
    """
    given = canonical_state(state)
    expected = model.state_dict()
    problems = [
        _listed("missing", [key for key in expected if key not in given]),
        _listed("unexpected", [key for key in given if key not in expected]),
        _listed(
            "of another shape",
            [
                f"{key} {tuple(given[key].shape)} instead of {tuple(tensor.shape)}"
                for key, tensor in expected.items()
                if key in given and given[key].shape != tensor.shape
            ],
        ),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        raise UserError(f"these weights do not fit the Any4D model: {found}")
    model.load_state_dict(given)


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{kind}: {', '.join(names[:NAMES_SHOWN])}{more}"


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file or of an official ``.pth`` (read without running any code it holds).

    Raises:
        UserError: the file is absent, damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"no weight file at {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file ({error}); fetch or train it again") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}); fetch it again") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict of tensors")
    return state


def save_any4d(model: Any4D, folder: Path) -> None:
    """Write ``config.json`` and ``model*.safetensors`` shards (bfloat16, except the heads that need more digits).

    Half the size of float32; the rounding (2⁻⁹ relative) is that of the numbers the model was trained with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = {name for name, _ in model.named_parameters() if not name.startswith(model.full_precision_prefixes)}
    tensors = {
        name: (tensor.to(torch.bfloat16) if name in halved else tensor).detach().contiguous()
        for name, tensor in model.state_dict().items()
    }
    for old in folder.glob(WEIGHTS_PATTERN.format(suffix="*")):
        old.unlink()
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=WEIGHTS_PATTERN, max_shard_size=MAX_SHARD)
    for filename, names in split.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / filename)
    atomic_write_text(folder / CONFIG_NAME, json.dumps(asdict(model.config), indent=2) + "\n")


def load_any4d(folder: Path) -> Any4D:
    """A model from a folder that ``save_any4d`` wrote, in float32 and evaluation mode.

    Raises:
        UserError: a file is missing, damaged, or does not fit.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no {CONFIG_NAME} in {folder}: this is no folder of a geometry model")
    try:
        given: dict[str, Any] = json.loads(path.read_text())
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        config = Any4DConfig(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a geometry model ({error}); fetch or train it again") from error
    model = Any4D(config)
    shards = sorted(folder.glob(WEIGHTS_PATTERN.format(suffix="*")))
    if not shards:
        raise UserError(f"no weight file in {folder}; fetch or train it again")
    tensors = {name: tensor for shard in shards for name, tensor in read_state(shard).items()}
    load_any4d_weights(model, {name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()
