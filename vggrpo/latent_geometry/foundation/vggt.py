"""VGGT (github.com/facebookresearch/vggt, arXiv 2503.11651), as a torch-only module under the official parameter names.

Written from the paper, the architecture's key names and shapes, and golden tensors; no code of the official release was
used. One pass gives the cameras and depths of a video whose scene stands still, in a scale of its own. The raw output
keeps the official conventions; ``vggt_adapter`` turns it into the project's ``SceneGeometry``.

The official track head (2-D point tracks) is left out: nothing here reads it.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vggrpo.latent_geometry.foundation.base import DecodedFrames, Grid
from vggrpo.latent_geometry.foundation.stitchable import StitchableFoundation
from vggrpo.latent_geometry.foundation.vggt_adapter import VGGTOutput, to_decoded_frames
from vggrpo.latent_geometry.foundation.vggt_aggregator import Aggregator
from vggrpo.latent_geometry.foundation.vggt_camera import CameraHead
from vggrpo.latent_geometry.foundation.vggt_config import VGGTConfig
from vggrpo.latent_geometry.foundation.vggt_dpt import VGGTDenseHead
from vggrpo.latent_geometry.foundation.vit import EncoderStyle, VisionTransformer
from vggrpo.types import SceneGeometry

DEPTH_CHANNELS = 2  # depth, confidence
POINT_CHANNELS = 4  # point 3, confidence


class VGGT(StitchableFoundation):
    """The geometry foundation model Φ for static scenes; implements ``base.GeometryModel``."""

    config: VGGTConfig
    full_precision_prefixes = ("camera_head.", "depth_head.", "point_head.")
    encoder_name = "aggregator.patch_embed"
    fusion_prefixes = ("aggregator.frame_blocks.", "aggregator.global_blocks.")

    def __init__(self, config: VGGTConfig) -> None:
        """Random weights of the sizes in ``config``."""
        super().__init__()
        self.config = config
        encoder = VisionTransformer(
            config.encoder_dim,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            patch_size=config.patch_size,
            position_grid=config.position_grid,
            style=EncoderStyle(registers=config.registers, mask_token=True, antialias=True),
        )
        self.aggregator = Aggregator(
            encoder,
            pairs=config.pairs,
            num_heads=config.sharing_heads,
            taps=config.taps,
            registers=config.registers,
        )
        dim = 2 * config.encoder_dim
        self.camera_head = CameraHead(
            dim, depth=config.camera_depth, num_heads=config.camera_heads, iterations=config.camera_iterations
        )
        for name, channels in (("point_head", POINT_CHANNELS), ("depth_head", DEPTH_CHANNELS)):
            head = VGGTDenseHead(dim, channels=config.dpt_channels, features=config.dpt_features, output_dim=channels)
            setattr(self, name, head)

    def predict(
        self,
        features: Float[Tensor, "B N patches C"],
        *,
        grid: Grid,
        frames: Int[Tensor, " M"] | None = None,
        with_points: bool = False,
    ) -> VGGTOutput:
        """Everything behind the encoder, in VGGT's own conventions.

        Dense outputs for ``frames`` only (None: all); points of the point head only on request: depth and camera give
        better ones (says the official description), and they agree with both.
        """
        tokens = self.aggregator(features, grid=grid)
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        precision = self.camera_head.embed_pose.weight.dtype
        pose = self.camera_head(tokens.camera.to(precision))
        taps = [tap if frames is None else tap.index_select(1, frames) for tap in tokens.taps]
        depth = self._dense("depth_head", taps, grid=grid, size=size)
        points = self._dense("point_head", taps, grid=grid, size=size) if with_points else None
        return VGGTOutput(
            pose_encodings=pose,
            depth=depth[:, :, 0].exp(),
            depth_confidence=1 + depth[:, :, 1].exp(),
            points=None if points is None else inverse_log(points[:, :, :3]).movedim(2, -1),
            points_confidence=None if points is None else 1 + points[:, :, 3].exp(),
        )

    def forward(self, images: Float[Tensor, "B N 3 H W"], *, with_points: bool = False) -> VGGTOutput:
        """Raw output for videos given as images in [0, 1]."""
        features = self.finish_encoder(self.encode_tokens(images, upto=0), start=0)
        return self.predict(features, grid=self.grid_of(images), with_points=with_points)

    def decode(self, features: Float[Tensor, "B N patches C"], *, grid: Grid) -> SceneGeometry:
        """Geometry from the encoder's output, in the project's conventions."""
        return to_decoded_frames(self.predict(features, grid=grid), frames=None).scene

    def decode_frames(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, frames: Int[Tensor, " M"]
    ) -> DecodedFrames:
        """Cameras of all frames and dense geometry of ``frames``."""
        return to_decoded_frames(self.predict(features, grid=grid, frames=frames), frames=frames)

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        """Φ(x), in the project's conventions."""
        return to_decoded_frames(self(images), frames=None).scene

    @torch.no_grad()
    def start_from_scratch(self) -> None:
        """Random weights that can be measured: cameras at rest with a field of view of one radian."""
        branch = self.camera_head.pose_branch.fc2
        branch.weight.mul_(0.1)
        resting = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0], device=branch.bias.device)
        branch.bias.copy_(resting / self.config.camera_iterations)

    def _dense(
        self, name: str, taps: Sequence[Tensor], *, grid: Grid, size: tuple[int, int]
    ) -> Float[Tensor, "B M channels H W"]:
        head = cast(VGGTDenseHead, self.get_submodule(name))
        batch, frames = taps[0].shape[:2]
        precision = head.norm.weight.dtype

        def read(part: list[Tensor]) -> Tensor:
            return head([tokens.to(precision) for tokens in part], grid=grid, image=size)

        flat = [tap.flatten(0, 1) for tap in taps]
        return self.dense_maps(read, flat, pixels=size[0] * size[1]).unflatten(0, (batch, frames))


def inverse_log(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sign(y) (e^|y| - 1): numbers of any size and sign out of small ones."""
    return raw.sign() * raw.abs().expm1()
