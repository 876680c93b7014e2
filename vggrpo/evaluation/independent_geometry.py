"""What a geometry model that no training ever asked makes of a video's frames: depth by it, cameras by the frames.

The model is another Φ than the one that rewards. Its depth and intrinsics are taken as they are; its cameras are not,
they are fitted to the optical flow on that depth (``fitted_cameras`` says why). What cannot be read has a reason.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo.evaluation.fitted_cameras import DepthView, fit_cameras
from vggrpo.evaluation.optical_flow import FlowField, optical_flow
from vggrpo.evaluation.subjects import FrameReader
from vggrpo.geometry.projection import world_points_from_depth
from vggrpo.latent_geometry.pixel_grid import resize_for_geometry
from vggrpo.types import SceneGeometry

FEWEST_FRAMES = 3
"""A path of two frames has no acceleration."""
LEAST_VALID = 0.02
"""Share of all pixels that must have depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryReading:
    """One video as the judge reads it.

    ``scene`` is a batch of one on the CPU, with fitted cameras; None with a ``reason``. ``frames`` are those that the
    model saw, on the scene's pixel grid. ``explained`` is the least share of the points of any pair of frames that
    agree with the camera's motion (NaN where none was fitted).
    """

    scene: SceneGeometry | None
    frames: UInt8[np.ndarray, "N H W 3"]
    flow: FlowField | None
    explained: float
    reason: str | None = None


@torch.no_grad()
def read_geometry(model: FrameReader, video: Float[Tensor, "1 3 N H W"]) -> GeometryReading:
    """Read one video in [-1, 1], which lies on the model's device."""
    images = geometry_images(model, video)
    frames = (images[0].permute(0, 2, 3, 1).float().cpu().numpy() * 255.0).round().astype(np.uint8)
    scene = model.geometry(images).map(lambda tensor: tensor.cpu())
    reason = _why_not(scene)
    if reason is not None:
        return GeometryReading(scene=None, frames=frames, flow=None, explained=float("nan"), reason=reason)
    flow = optical_flow(frames)
    view = DepthView(
        depth=scene.depth[0].float().numpy(),
        intrinsics=scene.intrinsics[0].float().numpy(),
        valid=scene.valid[0].numpy(),
    )
    fitted = fit_cameras(view, flow=flow)
    explained = min(fitted.explained, default=float("nan"))
    if fitted.camera_from_world is None:
        return GeometryReading(scene=None, frames=frames, flow=flow, explained=explained, reason=fitted.reason)
    return GeometryReading(
        scene=with_cameras(scene, fitted.camera_from_world), frames=frames, flow=flow, explained=explained
    )


def geometry_images(model: FrameReader, video: Float[Tensor, "B 3 N H W"]) -> Float[Tensor, "B N 3 h w"]:
    """Video in [-1, 1] as the images in [0, 1] that the model reads."""
    images = ((video.transpose(1, 2) + 1.0) / 2.0).clamp(0.0, 1.0)
    return resize_for_geometry(images, patch_size=model.patch_size)


def with_cameras(scene: SceneGeometry, camera_from_world: Float[np.ndarray, "N 4 4"]) -> SceneGeometry:
    """The scene of one video under other cameras: the same depth and flow, points where these cameras see them."""
    cameras = torch.from_numpy(camera_from_world)[None].to(scene.depth.dtype)
    points = world_points_from_depth(scene.depth, intrinsics=scene.intrinsics, camera_from_world=cameras)
    return replace(scene, camera_from_world=cameras, points=points)


def _why_not(scene: SceneGeometry) -> str | None:
    """What keeps the judge's depth from being used."""
    if scene.num_frames < FEWEST_FRAMES:
        return f"the video has {scene.num_frames} frames, at least {FEWEST_FRAMES} are needed"
    if not bool(scene.intrinsics.isfinite().all()):
        return "the independent geometry model gave intrinsics that are not finite"
    usable = scene.valid & (scene.depth > 0) & scene.depth.isfinite()
    share = float(usable.float().mean())
    if share < LEAST_VALID:
        return f"the independent geometry model found depth in {share:.1%} of the pixels, fewer than {LEAST_VALID:.0%}"
    return None
