"""The latent geometry model Φ_g = T_L ∘ … ∘ T_{k+1} ∘ C_φ: geometry straight from video latents.

Its tail is a copy of the geometry foundation model Φ with LoRA on the linear layers behind the cut. A saved Φ_g holds
the connector, the prefix tokens and the LoRA weights; it is loaded onto the very Φ that it was made from.
"""

import hashlib
import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vggrpo.latent_geometry.connector import Connector, ConnectorConfig
from vggrpo.latent_geometry.foundation.base import DecodedFrames, GeometryModel, Grid
from vggrpo.latent_geometry.stitching import LayerFit
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_write_text
from vggrpo.types import Latents, SceneGeometry

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "latent_geometry.safetensors"
FOUNDATION_PREFIX = "foundation."


@dataclass(frozen=True, kw_only=True)
class LatentGeometryConfig:
    """Where Φ is cut, what replaces its head, and how its tail adapts.

    ``block`` is k: blocks 1 … k of the encoder are replaced. ``foundation`` is the fingerprint of Φ's weights.
    """

    block: int
    connector: ConnectorConfig
    lora_rank: int = 64
    lora_alpha: int = 32
    foundation: str = ""


class LatentGeometryModel(nn.Module):
    """Φ_g. Everything but connector, prefix tokens and LoRA is frozen."""

    def __init__(
        self, foundation: GeometryModel, config: LatentGeometryConfig, *, copy_foundation: bool = True
    ) -> None:
        """Copy ``foundation`` (an ``nn.Module``) and stitch the connector in front of its block k + 1.

        Without ``copy_foundation`` it is taken over: it costs no second copy of its weights, loses what the connector
        replaces, and cannot read images any more.

        Raises:
            ValueError: the cut is not inside the image encoder.
        """
        super().__init__()
        if not 1 <= config.block <= foundation.encoder_depth:
            raise ValueError(f"cut after block {config.block}: must be 1 … {foundation.encoder_depth}")
        self.config = config
        self.connector = Connector(config.connector)
        self.prefix_tokens = nn.Parameter(torch.zeros(foundation.num_prefix_tokens, foundation.token_dim))
        names = foundation.tail_linear_names(start=config.block)
        own = deepcopy(foundation) if copy_foundation else foundation
        own.drop_blocks(upto=config.block)
        tail = cast(nn.Module, own).requires_grad_(requires_grad=False)
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=names)
        self.foundation = inject_adapter_in_model(lora, tail)

    @classmethod
    def stitched(
        cls, foundation: GeometryModel, fit: LayerFit, *, connector: ConnectorConfig, rank: int = 64, alpha: int = 32
    ) -> "LatentGeometryModel":
        """Φ_g at the cut that the search chose, initialised with its closed-form solution."""
        config = LatentGeometryConfig(
            block=fit.block,
            connector=connector,
            lora_rank=rank,
            lora_alpha=alpha,
            foundation=fingerprint(foundation),
        )
        model = cls(foundation, config)
        model.connector.initialise(fit.weight, fit.bias)
        model.prefix_tokens.data.copy_(fit.prefix)
        return model

    @property
    def geometry_model(self) -> GeometryModel:
        """The tail, as the protocol that it implements."""
        return cast(GeometryModel, self.foundation)

    def grid_of(self, latents: Latents) -> Grid:
        """Token grid that latents give."""
        height, width = latents.tensor.shape[-2:]
        stride = self.config.connector.stride
        return height // stride, width // stride

    def features(self, latents: Latents) -> Float[Tensor, "B N patches C"]:
        """The encoder's output as the tail reaches it from latents."""
        positions = self.geometry_model.position_embedding(self.grid_of(latents))
        # As precise as the blocks behind the cut are held, however the connector is.
        tokens = (self.connector(latents.tensor).flatten(2, 3) + positions).to(positions.dtype)
        prefix = self.prefix_tokens.to(tokens.dtype).expand(*tokens.shape[:2], -1, -1)
        return self.geometry_model.finish_encoder(torch.cat([prefix, tokens], dim=2), start=self.config.block)

    def forward(self, latents: Latents) -> SceneGeometry:
        """Φ_g(z): geometry of every video frame; world = camera of frame 0."""
        return self.geometry_model.decode(self.features(latents), grid=self.grid_of(latents))

    def decode_frames(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, frames: Int[Tensor, " M"]
    ) -> DecodedFrames:
        """Cameras of all frames and dense geometry of some (see ``GeometryModel.decode_frames``)."""
        return self.geometry_model.decode_frames(features, grid=grid, frames=frames)

    def trainable_state(self) -> dict[str, Tensor]:
        """Connector, prefix tokens and LoRA weights by name."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def merge_lora(self) -> None:
        """Fold LoRA into the weights it adapts: faster reading; for inference only."""
        for module in self.foundation.modules():
            if isinstance(module, LoraLayer) and hasattr(module, "merge"):
                module.merge()

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and the trained weights as safetensors (connector float32, LoRA bfloat16)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: (tensor.to(torch.bfloat16) if name.startswith(FOUNDATION_PREFIX) else tensor.float()).contiguous()
            for name, tensor in self.trainable_state().items()
        }
        save_file(tensors, folder / WEIGHTS_NAME)
        atomic_write_text(folder / CONFIG_NAME, json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, *, foundation: GeometryModel, copy_foundation: bool = True) -> "LatentGeometryModel":
        """Load a saved Φ_g onto the Φ that it was made from; evaluation mode, as precise as Φ is held.

        Without ``copy_foundation`` Φ is taken over (see the constructor).

        Raises:
            UserError: a file is missing or damaged, does not fit, or belongs to another Φ.
        """
        config = read_config(folder)
        if config.foundation != fingerprint(foundation):
            raise UserError(f"{folder} was made from another geometry model: train it again with train-lgm")
        model = cls(foundation, config, copy_foundation=copy_foundation)
        path = folder / WEIGHTS_NAME
        try:
            given = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is missing or damaged ({error}); fetch or train it again") from error
        expected = model.trainable_state()
        wrong = sorted(set(given) ^ set(expected))
        wrong += [name for name in given if name in expected and given[name].shape != expected[name].shape]
        if wrong:
            raise UserError(f"{path} does not fit its configuration: {', '.join(wrong[:5])}; fetch or train it again")
        for name, tensor in expected.items():
            tensor.copy_(given[name])
        return model.eval()


def read_config(folder: Path) -> LatentGeometryConfig:
    """The configuration of a saved Φ_g.

    Raises:
        UserError: it is missing or describes something else.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise UserError(f"no {CONFIG_NAME} in {folder}: this is no folder of a latent geometry model")
    try:
        values = json.loads(path.read_text())
        connector = values.pop("connector")
        connector["kernel"] = tuple(connector["kernel"])
        return LatentGeometryConfig(connector=ConnectorConfig(**connector), **values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a latent geometry model ({error}); train it again") from error


def fingerprint(model: GeometryModel) -> str:
    """SHA-256 of a model's parameters by name: equal for equal weights, whatever file they came from.

    Weights that may be held in bfloat16 count in bfloat16, so that a model is the same however it is held.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(cast(nn.Module, model).named_parameters()):
        precise = name.startswith(model.full_precision_prefixes)
        counted = parameter.detach() if precise else parameter.detach().to(torch.bfloat16)
        digest.update(name.encode())
        digest.update(counted.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
