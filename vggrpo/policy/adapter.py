"""The policy's trainable part: a LoRA on the diffusers transformer. The reference policy is the adapter switched off.

While it is trained its weights are fp32 whatever the base is held in: updates of 1e-4 relative would vanish in bf16.
peft casts a layer's input up for the low-rank product and the sum down to the base's dtype.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from vggrpo.runtime.errors import UserError

TRAINED, LOADED = "default", "user"
"""Names of the adapter that is trained, and of one that was loaded."""
PICKLED = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
"""Formats that may run code when they are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """W + (alpha / rank) B A on every linear layer whose name ends with one of ``targets``."""

    rank: int = 32
    alpha: float = 64.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __post_init__(self) -> None:
        """Refuse senseless numbers."""
        if self.rank < 1:
            raise UserError(f"The LoRA's rank must be at least 1, not {self.rank}.")
        if not self.alpha > 0:
            raise UserError(f"The LoRA's alpha must be positive, not {self.alpha:g}.")


def add_adapter(transformer: WanTransformer3DModel, settings: LoraSettings, *, seed: int) -> tuple[str, ...]:
    """Freeze the base and put a trainable LoRA on it that changes nothing yet (B = 0, A Gaussian from ``seed``).

    Returns the names of the layers that it adapts. Raises a UserError when a target names no layer, and ValueError
    when an adapter is on already.
    """
    _require_bare(transformer)
    names = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(f"No layer of the video model is called {target!r}: choose other LoRA targets.")
    if not settings.targets:
        raise UserError("There is no LoRA target: name at least one layer, for example to_q.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=TRAINED)  # peft freezes everything else
    _make_trainable(transformer)
    return tuple(name for name, module in transformer.named_modules() if isinstance(module, LoraLayer))


def adapter_parameters(transformer: WanTransformer3DModel) -> dict[str, nn.Parameter]:
    """The adapter's weights by name, sorted as the model has them; empty without an adapter."""
    return {name: parameter for name, parameter in transformer.named_parameters() if ".lora_" in name}


@contextmanager
def adapter_disabled(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Inside the block the transformer is the reference policy: its adapter is off."""
    parameters = adapter_parameters(transformer)
    trainable = {name: parameter.requires_grad for name, parameter in parameters.items()}
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()
        # Switching on makes everything trainable, switching off nothing.
        for name, parameter in parameters.items():
            parameter.requires_grad = trainable[name]


def save_adapter(transformer: WanTransformer3DModel, folder: Path) -> Path:
    """Write the adapter as ``WanPipeline.load_lora_weights`` reads it; returns the file. Atomic.

    The metadata carries alpha; without it diffusers takes alpha = rank.
    """
    name = next(iter(transformer.peft_config))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as building:
        WanPipeline.save_lora_weights(
            building,
            transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=name),
            transformer_lora_adapter_metadata=transformer.peft_config[name].to_dict(),
        )
        written = Path(building) / LORA_WEIGHT_NAME_SAFE
        # A reader after a power cut must not find a file that is there in name only.
        with written.open("rb") as file:
            os.fsync(file.fileno())
        return written.replace(folder / LORA_WEIGHT_NAME_SAFE)


def load_adapter(transformer: WanTransformer3DModel, path: Path, *, trainable: bool = False) -> None:
    """Put a LoRA in diffusers' format on the transformer; take it off with ``remove_adapter``. Raises a UserError.

    As with ``WanPipeline.load_lora_weights`` its weights take the base's dtype, so that both make the same video.
    ``trainable``: the base is frozen, and the adapter is trained on from the file's own fp32 numbers. Raises ValueError
    when an adapter is on already.
    """
    _require_bare(transformer)
    file = path / LORA_WEIGHT_NAME_SAFE if path.is_dir() else path
    if file.suffix in PICKLED:
        raise UserError(f"{path} is a pickle, which may run code: give the adapter as a .safetensors file.")
    if not file.is_file() or file.suffix != ".safetensors":
        raise UserError(f"{path} holds no LoRA: give a .safetensors file or a folder that train wrote.")
    misfit = _find_misfit(transformer, _read_shapes(file))
    if misfit:
        raise UserError(f"{file} does not fit this video model ({misfit}): give a LoRA that was trained on it.")
    try:
        transformer.load_lora_adapter(file.parent, weight_name=file.name, prefix="transformer", adapter_name=LOADED)
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        remove_adapter(transformer)
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} does not fit this video model ({reason}).") from error
    transformer.requires_grad_(requires_grad=False)
    if trainable:
        _make_trainable(transformer)
        _restore(transformer, file)


def remove_adapter(transformer: WanTransformer3DModel) -> None:
    """Back to the base model, without the wrappers that deleting an adapter alone would leave around its layers."""
    if hasattr(transformer, "peft_config"):
        transformer.unload_lora()


def _require_bare(transformer: WanTransformer3DModel) -> None:
    """One adapter at a time: with two, the reference policy and what is saved would be anyone's guess."""
    if hasattr(transformer, "peft_config"):
        raise ValueError("the transformer has an adapter already; remove_adapter takes it off")


def _make_trainable(transformer: WanTransformer3DModel) -> None:
    """The adapter's weights in fp32, asking for gradients."""
    for parameter in adapter_parameters(transformer).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad = True


def _restore(transformer: WanTransformer3DModel, file: Path) -> None:
    """The file's numbers as they are: loading rounds them to the base's dtype."""
    parameters = adapter_parameters(transformer)
    for name, tensor in load_file(file).items():
        layer, matrix, _ = name.removeprefix("transformer.").rsplit(".", 2)
        parameters[f"{layer}.{matrix}.{LOADED}.weight"].data.copy_(tensor)


def _read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, by name. Raises a UserError for a damaged file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no safetensors file, or a damaged one: give another adapter.") from error


def _find_misfit(transformer: WanTransformer3DModel, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """What keeps a LoRA from fitting: diffusers would leave out what it finds no place for, with a warning only."""
    prefix = "transformer."
    pairs = [name for name in shapes if name.startswith(prefix) and name.endswith("lora_A.weight")]
    if not pairs:
        return "it holds no LoRA for a transformer"
    linears = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    for name in pairs:
        layer = name.removeprefix(prefix).removesuffix(".lora_A.weight")
        if layer not in linears:
            return f"the model has no layer {layer}"
        sizes = (shapes[name][-1], shapes.get(name.replace("lora_A", "lora_B"), (0,))[0])
        expected = (linears[layer].in_features, linears[layer].out_features)
        if sizes != expected:
            return f"{layer} maps {expected[0]} to {expected[1]} features, the LoRA's {sizes[0]} to {sizes[1]}"
    return None
