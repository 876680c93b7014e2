"""A ``WanPipeline`` folder checked before anything of it is loaded: the right model, every shard, whole and fitting.

diffusers fills missing weights with random numbers and only warns. Here the tensor names and shapes in the headers of
the safetensors files are compared with those of the model that ``config.json`` describes, built on the ``meta`` device:
that reads no weights, and names the file that is wrong.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from vggrpo.policy.wan_sizes import WanSizes
from vggrpo.runtime.errors import UserError

Component = Literal["transformer", "vae", "text_encoder"]
COMPONENTS: tuple[Component, ...] = get_args(Component)

_CLASSES: Mapping[Component, str] = {
    "transformer": "WanTransformer3DModel",
    "vae": "AutoencoderKLWan",
    "text_encoder": "UMT5EncoderModel",
}
_WEIGHTS: Mapping[Component, str] = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_UNSAFE = (".bin", ".pth", ".pt", ".ckpt")
_NAMED = 3
"""Tensors named in a message; the rest are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFolder:
    """A folder whose files all fit. ``sizes`` are its own, whatever a preset says."""

    path: Path
    sizes: WanSizes

    def part(self, name: Component) -> Path:
        """The folder of one component."""
        return self.path / name


def check_pipeline_folder(path: Path) -> PipelineFolder:
    """Read the configurations and check the weight files of a pipeline folder; loads no weights.

    Raises:
        UserError: it is no folder of a Wan pipeline, or a file is missing, truncated, of an unsafe format, or of
            another model than its ``config.json`` says.
    """
    sizes = read_sizes(path)
    if not (path / "tokenizer").is_dir():
        raise UserError(f"{path} has no folder tokenizer: fetch it again, or give another --model-folder.")
    _require_matching_parts(path, sizes)
    for name in COMPONENTS:
        with torch.device("meta"):
            model = build_part(name, sizes)
        check_weights(path / name, model, stem=_WEIGHTS[name])
    return PipelineFolder(path=path, sizes=sizes)


def read_sizes(path: Path) -> WanSizes:
    """The sizes of a pipeline folder, from its configurations alone. Raises a UserError as below."""
    index = _read_index(path)
    configs = {name: _read_config(path, name) for name in COMPONENTS}
    return WanSizes(
        transformer=configs["transformer"],
        vae=configs["vae"],
        text_encoder=configs["text_encoder"],
        expand_timesteps=bool(index.get("expand_timesteps")),
    )


def build_part(name: Component, sizes: WanSizes) -> Any:
    """A fresh component with random weights; under ``torch.device("meta")`` it takes no memory."""
    if name == "transformer":
        return WanTransformer3DModel.from_config(dict(sizes.transformer))
    if name == "vae":
        # It joins these lists with others.
        return AutoencoderKLWan.from_config({k: list(v) if isinstance(v, tuple) else v for k, v in sizes.vae.items()})
    return UMT5EncoderModel(UMT5Config(**sizes.text_encoder))


def check_weights(folder: Path, model: nn.Module, *, stem: str) -> None:
    """Raise a UserError unless the safetensors files of ``folder`` hold ``model``'s tensors in its shapes."""
    held: dict[str, tuple[int, ...]] = {}
    origin: dict[str, Path] = {}
    for file in weight_files(folder, stem=stem):
        shapes = _header(file)
        held.update(shapes)
        origin.update(dict.fromkeys(shapes, file))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "_tied_weights_keys", None) or {}
    missing = [name for name in wanted if name not in held and not _has_twin(name, tied, held)]
    strange = [name for name in held if name not in wanted]
    shaped = [name for name in held if name in wanted and held[name] != wanted[name]]
    if missing:
        raise UserError(f"The weights in {folder} are of another model: {_named(missing)} missing. {_ADVICE}")
    if shaped:
        name = shaped[0]
        raise UserError(
            f"{origin[name]} is of another model than {folder / 'config.json'}: {name} has shape {list(held[name])}, "
            f"not {list(wanted[name])}. {_ADVICE}"
        )
    if strange:
        raise UserError(f"{origin[strange[0]]} is of another model: it holds {_named(strange)} too much. {_ADVICE}")


def weight_files(folder: Path, *, stem: str) -> list[Path]:
    """The safetensors files of a component, every shard of its index. Raises a UserError for one that is not there."""
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{index} is damaged ({type(error).__name__}). {_ADVICE}") from error
        files = [folder / name for name in shards]
    else:
        files = [single]
    absent = [file for file in files if not file.is_file()]
    if not absent:
        return files
    unsafe = sorted(file.name for file in folder.iterdir() if file.suffix in _UNSAFE)
    if unsafe and not index.is_file():
        raise UserError(
            f"{folder / unsafe[0]} is not read, because such files can run code: save the model as safetensors."
        )
    which = f"the shard {absent[0]} is missing" if index.is_file() else f"{single} is missing"
    more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
    raise UserError(f"{which[0].upper()}{which[1:]}{more}. {_ADVICE}")


_ADVICE = "Fetch it again, or give another --model-folder."


def _read_index(path: Path) -> Mapping[str, Any]:
    """``model_index.json`` of a text-to-video Wan pipeline with one transformer."""
    file = path / "model_index.json"
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give the folder of a WanPipeline, as save_pretrained writes it.")
    if not file.is_file():
        raise UserError(f"{path} has no model_index.json: give the folder of a WanPipeline in diffusers' layout.")
    index = _read_json(file)
    kind = index.get("_class_name")
    if kind not in {"WanPipeline", "WanImageToVideoPipeline"}:
        raise UserError(
            f"{path} holds a {kind}: a WanPipeline is needed, for example Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    if (index.get("transformer_2") or [None])[0] is not None:
        raise UserError(f"{path} holds a model of two transformers (Wan 2.2 A14B): only models with one are supported.")
    for name in COMPONENTS:
        found = (index.get(name) or [None, None])[1]
        if found != _CLASSES[name]:
            raise UserError(f"{path} has {found or 'nothing'} as its {name}: {_CLASSES[name]} is needed.")
    return index


def _read_config(path: Path, name: Component) -> dict[str, Any]:
    file = path / name / "config.json"
    if not file.is_file():
        raise UserError(f"{file} is missing. {_ADVICE}")
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: it is no JSON. {_ADVICE}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it holds no settings. {_ADVICE}")
    return content


def _require_matching_parts(path: Path, sizes: WanSizes) -> None:
    """The parts of one folder must belong together."""
    transformer, vae, text = sizes.transformer, sizes.vae, sizes.text_encoder
    if transformer.get("image_dim") or transformer.get("in_channels") != transformer.get("out_channels"):
        raise UserError(f"{path / 'transformer'} is an image-to-video model with an image encoder: not supported.")
    if transformer.get("in_channels") != vae.get("z_dim"):
        raise UserError(
            f"{path}: the transformer takes latents of {transformer.get('in_channels')} channels, its VAE makes "
            f"{vae.get('z_dim')}: their folders are of two models."
        )
    if transformer.get("text_dim") != text.get("d_model"):
        raise UserError(
            f"{path}: the transformer takes text of width {transformer.get('text_dim')}, its text encoder makes "
            f"{text.get('d_model')}: their folders are of two models."
        )


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes; opening checks that the file is as long as its header says."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or damaged ({error}). {_ADVICE}") from error


def _has_twin(name: str, tied: Mapping[str, str], held: Mapping[str, object]) -> bool:
    """Whether a tensor that is stored once serves under another name too."""
    return any(name in pair and any(other in held for other in pair) for pair in tied.items())


def _named(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more tensors" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
