"""Any4D (github.com/Any-4D/Any4D), image-only path, as a torch-only module under the official parameter names.

Written from the architecture's description, its key names and golden tensors. One pass gives cameras, rays, distances,
points and scene flow of a whole video in metric scale. The raw output keeps the official conventions (world-from-camera
poses, distance along the ray); ``any4d_adapter`` turns it into the project's ``SceneGeometry``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.geometry.so3 import matrix_from_quaternion
from vggrpo.latent_geometry.foundation.any4d_adapter import (
    FlowSteps,
    to_decoded_frames,
    to_scene_geometry,
    with_own_flow,
)
from vggrpo.latent_geometry.foundation.any4d_config import Any4DConfig
from vggrpo.latent_geometry.foundation.any4d_dpt import DPTFeature, DPTRegressor
from vggrpo.latent_geometry.foundation.any4d_heads import PoseHead, ScaleHead
from vggrpo.latent_geometry.foundation.any4d_output import Any4DOutput
from vggrpo.latent_geometry.foundation.any4d_sharing import AlternatingAttention, SharedFeatures
from vggrpo.latent_geometry.foundation.base import DecodedFrames, Grid
from vggrpo.latent_geometry.foundation.stitchable import StitchableFoundation
from vggrpo.latent_geometry.foundation.vit import NORM_EPSILON, EncoderStyle, VisionTransformer
from vggrpo.types import SceneGeometry

NORM_FLOOR = 1e-8
DENSE_CHANNELS = 6  # ray 3, distance, confidence, mask
FLOW_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class FrameSelection:
    """Which frames a training step looks at.

    ``offsets``: frame numbers of each clip relative to the first frame given, where frames were left out (None:
    consecutive).
    ``dense``: the frames (indices into those given) that get dense outputs (None: all, empty: none); the others cost no
    DPT.
    """

    offsets: Int[Tensor, "B N"] | None = None
    dense: Int[Tensor, " M"] | None = None


ALL_FRAMES = FrameSelection()


class ImageEncoder(nn.Module):
    """Holds the transformer under the official prefix ``encoder.model``."""

    def __init__(self, model: VisionTransformer) -> None:
        """Wrap ``model``."""
        super().__init__()
        self.model = model


class Any4D(StitchableFoundation):
    """The geometry foundation model Φ of the 4D family; implements ``base.GeometryModel``."""

    config: Any4DConfig
    full_precision_prefixes = ("pose_head.", "scale_head.")
    encoder_name = "encoder.model"
    fusion_prefixes = ("info_sharing.self_attention_blocks.",)

    def __init__(self, config: Any4DConfig) -> None:
        """Random weights of the sizes in ``config``."""
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(
            VisionTransformer(
                config.encoder_dim,
                depth=config.encoder_depth,
                num_heads=config.encoder_heads,
                patch_size=config.patch_size,
                position_grid=config.position_grid,
                style=EncoderStyle(),
            )
        )
        self.fusion_norm_layer = nn.LayerNorm(config.encoder_dim, eps=NORM_EPSILON)
        self.scale_token = nn.Parameter(torch.zeros(config.encoder_dim))
        nn.init.trunc_normal_(self.scale_token, std=0.02)
        self.info_sharing = AlternatingAttention(
            config.encoder_dim,
            dim=config.sharing_dim,
            depth=config.sharing_depth,
            num_heads=config.sharing_heads,
            taps=config.sharing_taps,
            max_views=config.max_views,
        )
        input_dims = (config.encoder_dim, *[config.sharing_dim] * 3)
        for prefix, channels in (("", DENSE_CHANNELS), ("scene_flow_", FLOW_CHANNELS)):
            feature = DPTFeature(input_dims, layer_dims=config.dpt_layer_dims, features=config.dpt_features)
            setattr(self, f"{prefix}dpt_feature_head", feature)
            setattr(self, f"{prefix}dpt_regressor_head", DPTRegressor(config.dpt_features, output_dim=channels))
        self.pose_head = PoseHead(config.sharing_dim, hidden=config.pose_hidden, num_blocks=config.pose_blocks)
        self.scale_head = ScaleHead(config.sharing_dim, hidden=config.scale_hidden)

    def predict(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, selection: FrameSelection = ALL_FRAMES
    ) -> Any4DOutput:
        """Everything behind the encoder, in Any4D's own conventions."""
        fused = self.fusion_norm_layer(features)
        shared = self.info_sharing(fused, self.scale_token, offsets=selection.offsets)
        pose = self._pose(shared.final, grid=grid)
        scale = self.scale_head(shared.scale_token.to(self.scale_head.proj.weight.dtype)).exp().clamp_min(NORM_FLOOR)
        maps = self._token_maps(fused, shared, grid=grid, dense=selection.dense)
        batch_views = (features.shape[0], maps[0].shape[0] // features.shape[0])
        size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        dense = self._dense(maps, prefix="", size=size).unflatten(0, batch_views)
        flow = self._dense(maps, prefix="scene_flow_", size=size).unflatten(0, batch_views)
        return assemble(
            pose=pose, scale=scale, dense=dense, flow=flow, frames=selection.dense, flow_grid=self.config.flow_grid
        )

    def forward(self, images: Float[Tensor, "B N 3 H W"], *, selection: FrameSelection = ALL_FRAMES) -> Any4DOutput:
        """Raw output for videos given as images in [0, 1]."""
        features = self.finish_encoder(self.encode_tokens(images, upto=0), start=0)
        return self.predict(features, grid=self.grid_of(images), selection=selection)

    def decode(self, features: Float[Tensor, "B N patches C"], *, grid: Grid) -> SceneGeometry:
        """Geometry from the encoder's output, in the project's conventions."""
        return to_scene_geometry(self.predict(features, grid=grid))

    def decode_frames(
        self, features: Float[Tensor, "B N patches C"], *, grid: Grid, frames: Int[Tensor, " M"]
    ) -> DecodedFrames:
        """Cameras of all frames and dense geometry of ``frames``."""
        if self.config.flow_grid == "self":
            output = self.predict(features, grid=grid, selection=FrameSelection(dense=frames))
            return to_decoded_frames(output, frames=frames)
        # Flow on view 0's pixels is carried to a frame's own pixels by the flow of its neighbour.
        steps = FlowSteps.of(frames, count=features.shape[1])
        needed = steps.needed()
        output = self.predict(features, grid=grid, selection=FrameSelection(dense=needed))
        decoded = to_decoded_frames(output, frames=needed)
        steps = steps.among(needed)
        chosen = decoded.scene.map(lambda tensor: tensor.index_select(1, steps.own))
        return replace(decoded, scene=with_own_flow(chosen, reference=decoded.scene, steps=steps))

    def geometry(self, images: Float[Tensor, "B N 3 H W"]) -> SceneGeometry:
        """Φ(x), in the project's conventions."""
        return to_scene_geometry(self(images))

    def _pose(self, final: Float[Tensor, "B N patches D"], *, grid: Grid) -> Float[Tensor, "B N 7"]:
        tokens = final.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        raw = self.pose_head(tokens.to(self.pose_head.fc_t.weight.dtype))
        return raw.unflatten(0, final.shape[:2])

    def _token_maps(
        self, fused: Tensor, shared: SharedFeatures, *, grid: Grid, dense: Int[Tensor, " M"] | None
    ) -> list[Float[Tensor, "batch dim h w"]]:
        stages = (fused, *shared.taps, shared.final)
        chosen = stages if dense is None else tuple(stage.index_select(1, dense) for stage in stages)
        return [stage.flatten(0, 1).transpose(1, 2).unflatten(2, grid) for stage in chosen]

    def _dense(self, maps: Sequence[Tensor], *, prefix: str, size: tuple[int, int]) -> Float[Tensor, "batch c H W"]:
        feature = cast(DPTFeature, self.get_submodule(f"{prefix}dpt_feature_head"))
        regressor = cast(DPTRegressor, self.get_submodule(f"{prefix}dpt_regressor_head"))
        if not maps[0].shape[0]:
            # Convolutions do not take empty batches on every device.
            channels = DENSE_CHANNELS if prefix == "" else FLOW_CHANNELS
            return maps[0].new_zeros(0, channels, *size).float()
        return self.dense_maps(lambda part: regressor(feature(part), size), maps, pixels=size[0] * size[1])


def assemble(
    *,
    pose: Float[Tensor, "B N 7"],
    scale: Float[Tensor, "B 1"],
    dense: Float[Tensor, "B M 6 H W"],
    flow: Float[Tensor, "B M 3 H W"],
    frames: Int[Tensor, " M"] | None,
    flow_grid: str,
) -> Any4DOutput:
    """Activations and the metric scale: the last, parameter-free part of the model."""
    channels = dense.permute(0, 1, 3, 4, 2)
    rays = F.normalize(channels[..., :3], dim=-1, eps=NORM_FLOOR)
    metric = scale[:, :, None, None, None]
    distance = channels[..., 3:4].exp() * metric
    quaternion = F.normalize(pose[..., 3:], dim=-1, eps=NORM_FLOOR)
    translation = pose[..., :3] * scale[:, :, None]
    logits = channels[..., 5]
    camera_points = rays * distance
    own_quaternion = quaternion if frames is None else quaternion.index_select(1, frames)
    own_translation = translation if frames is None else translation.index_select(1, frames)
    rotation = matrix_from_quaternion(own_quaternion)
    points = torch.einsum("bnij,bnhwj->bnhwi", rotation, camera_points) + own_translation[:, :, None, None]
    mask: Bool[Tensor, "B M H W"] = logits.sigmoid() > 0.5
    return Any4DOutput(
        cam_trans=translation,
        cam_quats=quaternion,
        ray_directions=rays,
        depth_along_ray=distance,
        pts3d_cam=camera_points,
        pts3d=points,
        scene_flow=flow.permute(0, 1, 3, 4, 2) * metric,
        metric_scaling_factor=scale[:, None].expand(-1, pose.shape[1], -1),
        conf=1 + channels[..., 4].exp(),
        non_ambiguous_mask=mask,
        non_ambiguous_mask_logits=logits,
        flow_grid="self" if flow_grid == "self" else "reference",
    )
