"""Depth Anything 3 (arXiv 2511.10647) through its own package, where that is installed: cameras and depths.

The package is no dependency. Only its ``model`` and the configurations for it are used: its ``api`` runs without
gradients and drags in far more. What to know of it:

* without ``ref_view_strategy="first"`` it picks a reference frame by itself and reorders the video;
* ``extrinsics`` of its output are camera-from-world, although its pose encoding inside is world-from-camera;
* its weights on the hub carry the prefix ``model.`` of the api class;
* its blocks are frame-wise up to ``alt_start``, where the class token becomes a camera token and frames begin to mix:
  those first blocks are the encoder that can be cut;
* it prints to standard output unless told not to.
"""

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vggrpo.geometry.projection import rigid_matrix
from vggrpo.latent_geometry.foundation.base import DecodedFrames, Grid
from vggrpo.latent_geometry.foundation.static_scene import anchored_cameras, plausible_focals, static_scene
from vggrpo.latent_geometry.foundation.stitchable import IMAGE_MEAN, IMAGE_STD, HeldFoundation, Replaced
from vggrpo.latent_geometry.foundation.vit import Recomputing
from vggrpo.latent_geometry.foundation.weight_files import WeightLayout, fill, published_file, read_state
from vggrpo.runtime.errors import UserError
from vggrpo.types import SceneGeometry

TITLE = "Depth Anything 3"
INSTALL = "pip install --no-deps depth-anything-3, then pip install einops omegaconf addict"
OFFICIAL_FILES = ("model.safetensors",)
HUB_PREFIX = "model."
WIDTH_KEY = "backbone.pretrained.cls_token"
CAMERA_KEY = "cam_dec.fc_t.weight"
VARIANTS: Mapping[int, str] = {384: "da3-small", 768: "da3-base", 1024: "da3-large"}
"""The package's configuration by the width of the backbone."""
SMALLEST = "da3-small"


class PassThrough(nn.Module):
    """Stands where the blocks of the encoder were: they have run already."""

    def forward(self, tokens: Tensor, **_options: object) -> Tensor:
        """The tokens as they are."""
        return tokens


class Rerun(Recomputing):
    """A block of the package that may be run again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        """Wrap ``block``."""
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, *, pos: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        """The block's own forward pass."""
        return self.run(self.block, tokens, pos, attn_mask)


class GivenTokens:
    """Takes the place of the package's patch embedding: the backbone goes on from tokens instead of images."""

    def __init__(self) -> None:
        """Nothing is given yet."""
        self.tokens: Tensor | None = None

    def __call__(self, _images: Tensor, **_options: object) -> Tensor:
        """The tokens for one pass, which changes them."""
        if self.tokens is None:
            raise RuntimeError("the backbone was called without tokens: use geometry() or decode()")
        tokens, self.tokens = self.tokens, None
        return tokens


class DepthAnything3(HeldFoundation):
    """Φ for static scenes out of an installed package; implements ``base.GeometryModel``."""

    full_precision_prefixes = ("network.head.", "network.cam_dec.", "network.cam_enc.")
    dense_chunk: int | None = None
    """Without effect: the package's head always takes eight frames at a time."""
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, network: nn.Module) -> None:
        """Take the package's network over and cut its backbone where frames begin to mix."""
        super().__init__()
        self.network = network
        vit = self.vit
        self.frame_blocks = nn.ModuleList(vit.blocks[: vit.alt_start])
        for index, block in enumerate(vit.blocks):
            vit.blocks[index] = PassThrough() if index < vit.alt_start else Rerun(block)
        self.given = GivenTokens()
        vit.prepare_tokens_with_masks = self.given
        network.get_submodule("backbone").register_forward_hook(_features_in_float32)
        for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def vit(self) -> Any:
        """The backbone; the package has no types."""
        return self.network.get_submodule("backbone.pretrained")

    @property
    def patch_size(self) -> int:
        """Side of one token's square of pixels."""
        return int(self.vit.patch_size)

    @property
    def token_dim(self) -> int:
        """Width of the backbone."""
        return int(self.vit.embed_dim)

    @property
    def encoder_depth(self) -> int:
        """Number of frame-wise blocks."""
        return len(self.frame_blocks)

    @property
    def num_prefix_tokens(self) -> int:
        """The class token; the released variants have no registers."""
        return 1 + int(self.vit.num_register_tokens)

    def position_embedding(self, grid: Grid) -> Float[Tensor, "1 patches C"]:
        """The backbone's position embedding of the patch tokens on ``grid``."""
        rows, columns = grid
        blank = self.vit.pos_embed.new_zeros(1, 1 + rows * columns, self.token_dim)
        return self.vit.interpolate_pos_encoding(blank, rows * self.patch_size, columns * self.patch_size)[:, 1:]

    def encode_tokens(self, images: Float[Tensor, "B N 3 H W"], *, upto: int) -> Float[Tensor, "B N S C"]:
        """Tokens after ``upto`` blocks of images in [0, 1]: class token, then patches row by row.

        Raises:
            ValueError: height or width is no multiple of the patch size.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images of {height} x {width} pixels: both must be multiples of {self.patch_size}")
        vit = self.vit
        normalised = ((images - self.image_mean) / self.image_std).to(vit.pos_embed.dtype)
        # The method of the class: the instance's own is ``given``.
        tokens = type(vit).prepare_tokens_with_masks(vit, normalised)
        return self._run_frame_blocks(tokens, start=0, stop=upto)

    def encoder_activations(self, images: Float[Tensor, "B N 3 H W"]) -> Iterator[Float[Tensor, "B N S C"]]:
        """The tokens after block 1, 2, … ``encoder_depth``, in one pass."""
        tokens = self.encode_tokens(images, upto=0)
        for index in range(self.encoder_depth):
            tokens = self._run_frame_blocks(tokens, start=index, stop=index + 1)
            yield tokens

    def finish_encoder(self, tokens: Float[Tensor, "B N S C"], *, start: int) -> Float[Tensor, "B N patches C"]:
        """Blocks from ``start`` on; the class token is left behind. No norm: the next block follows."""
        return self._run_frame_blocks(tokens, start=start, stop=self.encoder_depth)[:, :, self.num_prefix_tokens :]

    def decode(self, features: Float[Tensor, "B N patches C"], *, grid: Grid) -> SceneGeometry:
        """Geometry from the encoder's output; relative scale, no flow, world = camera of frame 0."""
        batch, frames, _, dim = features.shape
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        # The class token's place is overwritten by the camera token before anything reads it.
        prefix = features.new_zeros(batch, frames, self.num_prefix_tokens, dim)
        self.given.tokens = torch.cat([prefix, features], dim=2)
        output = self.network(features.new_zeros(batch, frames, 3, *size), ref_view_strategy="first")
        rows = output["extrinsics"].float()
        return static_scene(
            camera_from_world=anchored_cameras(rigid_matrix(rows[..., :3, :3], rows[..., :3, 3])),
            intrinsics=plausible_focals(output["intrinsics"].float(), size=size),
            depth=output["depth"].float(),
            confidence=output["depth_conf"].float(),
        )

    def decode_frames(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, frames: Int[Tensor, " M"]
    ) -> DecodedFrames:
        """Cameras of all frames and dense geometry of ``frames``; the package reads all frames densely."""
        scene = self.decode(features, grid=grid)
        chosen = scene.map(lambda tensor: tensor.index_select(1, frames))
        return DecodedFrames(camera_from_world=scene.camera_from_world, scene=chosen)

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        """Φ(x), in the project's conventions."""
        features = self.finish_encoder(self.encode_tokens(images, upto=0), start=0)
        return self.decode(features, grid=self.grid_of(images))

    def drop_blocks(self, *, upto: int) -> None:
        """Free the patch embedding and blocks 1 … ``upto``, which a connector replaces; images cannot pass any more."""
        self.vit.patch_embed = Replaced()
        for index in range(upto):
            self.frame_blocks[index] = Replaced()

    def grid_of(self, images: Float[Tensor, "B N 3 H W"]) -> Grid:
        """Token grid of images."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def tail_linear_names(self, *, start: int) -> list[str]:
        """Linear layers of the frame-wise blocks behind the cut and of the blocks that mix frames."""
        tail = tuple(f"frame_blocks.{index}." for index in range(start, self.encoder_depth))
        prefixes = (*tail, "network.backbone.pretrained.blocks.")
        return [
            name for name, module in self.named_modules() if isinstance(module, nn.Linear) and name.startswith(prefixes)
        ]

    def _run_frame_blocks(self, tokens: Float[Tensor, "B N S C"], *, start: int, stop: int) -> Float[Tensor, "B N S C"]:
        flat = tokens.flatten(0, 1)
        for block in self.frame_blocks[start:stop]:
            flat = self.run(block, flat)
        return flat.unflatten(0, tokens.shape[:2])


def _features_in_float32(_backbone: nn.Module, _inputs: tuple[Any, ...], output: tuple[Any, Any]) -> tuple[Any, Any]:
    """The backbone's (patch tokens, camera token) of every tap, as precise as the heads are held."""
    taps, extra = output
    return tuple((patches.float(), camera.float()) for patches, camera in taps), extra


def build_depth_anything_3(variant: str = SMALLEST) -> DepthAnything3:
    """The package's network with random weights.

    Raises:
        UserError: the package, or something that it needs, is not installed.
    """
    return DepthAnything3(_build_network(variant))


def load_depth_anything_3(source: Path) -> DepthAnything3:
    """A released model from its file or folder; the variant is told by its width.

    Raises:
        UserError: the package is not installed, or the weights are missing, damaged, or another model's.
    """
    path = published_file(source, names=OFFICIAL_FILES, title=TITLE)
    state = {key.removeprefix(HUB_PREFIX): tensor.float() for key, tensor in read_state(path).items()}
    layout = WeightLayout(title=TITLE, stored_name=lambda key: key)
    try:
        network = _build_network(_variant_of(state))
        fill(network, with_shared_tensors(state, network), layout=layout)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return DepthAnything3(network).eval()


def with_shared_tensors(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under every name that the network has them under.

    The package registers some norms under several names, and safetensors files of the hub hold each of them once.
    """
    groups: dict[int, list[str]] = {}
    for name, tensor in network.state_dict().items():
        groups.setdefault(tensor.data_ptr(), []).append(name)
    result = dict(state)
    for names in groups.values():
        held = [name for name in names if name in state]
        if len(names) > 1 and held:
            result |= {name: state[held[0]] for name in names if name not in state}
    return result


def _variant_of(state: Mapping[str, Tensor]) -> str:
    """The configuration that the weights were made with."""
    token = state.get(WIDTH_KEY)
    variant = None if token is None else VARIANTS.get(token.shape[-1])
    if variant is None or CAMERA_KEY not in state:
        raise UserError(f"no weights of a {TITLE} that gives cameras: {', '.join(VARIANTS.values())} do")
    return variant


def _build_network(variant: str) -> nn.Module:
    os.environ.setdefault("DA3_LOG_LEVEL", "ERROR")
    try:
        package = import_module("depth_anything_3.cfg")
        configuration = package.load_config(f"depth_anything_3.configs.{variant}")
        return cast(nn.Module, package.create_object(configuration))
    except ModuleNotFoundError as error:
        raise UserError(f"{TITLE} needs its package ({error}): {INSTALL}; or choose any4d or vggt") from error
