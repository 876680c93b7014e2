"""Batches of world clips for the geometry model: which frames it sees, and their exact geometry."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry.projection import rigid_inverse, transform_points
from vggrpo.types import SceneGeometry, WorldClip

# Sensor-like noise on the images (1 = white): videos decoded by a VAE are not as clean as rendered ones.
MAX_IMAGE_NOISE = 0.02
BLUR_SHARE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryBatch:
    """B clips of N chosen frames each: images in [0, 1] and the truth, in the camera of the first chosen frame.

    ``offsets`` are the chosen frames' numbers relative to the first; ``dense`` those (as indices into N) that get dense
    losses. ``flow_known`` marks frames whose flow can be told from the chosen frames: the next one is among them, or,
    for a clip's last frame, the one before. ``moving`` marks pixels of moving objects.
    """

    images: Float[Tensor, "B N 3 H W"]
    truth: SceneGeometry
    moving: Bool[Tensor, "B N H W"]
    offsets: Int[Tensor, " N"]
    dense: Int[Tensor, " M"]
    flow_known: Bool[Tensor, " N"]


def choose_frames(rng: np.random.Generator, *, total: int, count: int) -> Int[np.ndarray, " count"]:
    """``count`` sorted frames of a clip: half the time consecutive ones, half the time scattered ones."""
    if rng.random() < 0.5:
        return rng.integers(total - count + 1) + np.arange(count)
    return np.sort(rng.choice(total, size=count, replace=False))


def choose_far_frames(rng: np.random.Generator, *, total: int, count: int) -> Int[np.ndarray, " count"]:
    """``count`` sorted frames, the first from a clip's first quarter and the last from its last quarter."""
    quarter = total // 4
    first = int(rng.integers(quarter))
    last = total - 1 - int(rng.integers(quarter))
    between = rng.choice(np.arange(first + 1, last), size=count - 2, replace=False)
    return np.sort(np.concatenate([[first], between, [last]]))


def known_flow(frames: Int[np.ndarray, " N"], *, total: int) -> Bool[np.ndarray, " N"]:
    """Frames whose flow is determined by the chosen frames (see ``GeometryBatch.flow_known``)."""
    known = np.isin(frames + 1, frames)
    known |= (frames == total - 1) & np.isin(frames - 1, frames)
    return known


def make_batch(
    clips: Sequence[WorldClip], *, frames: Int[np.ndarray, " N"], dense: Int[np.ndarray, " M"]
) -> GeometryBatch:
    """Batch the chosen frames of clips, their truth re-anchored on the first chosen frame."""
    total = clips[0].rgb.shape[0]
    rgb = torch.from_numpy(np.stack([clip.rgb[frames] for clip in clips]))
    moving = torch.from_numpy(np.stack([clip.moving[frames] for clip in clips]))
    scenes = [anchor_on(clip.geometry.to_scene(), frames=torch.from_numpy(frames)) for clip in clips]
    truth = scenes[0].map(lambda tensor: tensor)
    names = SceneGeometry.__dataclass_fields__
    truth = replace(truth, **{name: torch.cat([getattr(scene, name) for scene in scenes]) for name in names})
    return GeometryBatch(
        images=rgb.permute(0, 1, 4, 2, 3).float() / 255,
        truth=truth,
        moving=moving,
        offsets=torch.from_numpy(frames - frames[0]),
        dense=torch.from_numpy(dense),
        flow_known=torch.from_numpy(known_flow(frames, total=total)),
    )


def anchor_on(scene: SceneGeometry, *, frames: Int[Tensor, " N"]) -> SceneGeometry:
    """The chosen frames of a scene, with the first of them as the world frame."""
    chosen = scene.map(lambda tensor: tensor[:, frames])
    anchor = chosen.camera_from_world[:, 0]
    shape = chosen.points.shape
    points = transform_points(anchor, chosen.points.flatten(1, 3)).reshape(shape)
    flow = torch.einsum("bij,bnhwj->bnhwi", anchor[:, :3, :3], chosen.scene_flow)
    camera = chosen.camera_from_world @ rigid_inverse(anchor)[:, None]
    return replace(chosen, camera_from_world=camera, points=points, scene_flow=flow)


def degrade(images: Float[Tensor, "B N 3 H W"], *, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Noise, and on a share of batches a slight blur: what a VAE does to a video, so that Φ is used to it."""
    if rng.random() < BLUR_SHARE:
        flat = torch.nn.functional.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
        blurred = torch.nn.functional.avg_pool2d(flat, kernel_size=3, stride=1).unflatten(0, images.shape[:2])
        images = images.lerp(blurred, float(rng.uniform(0.3, 1.0)))
    noise = torch.randn(images.shape, generator=generator)
    return (images + float(rng.uniform(0, MAX_IMAGE_NOISE)) * noise).clamp(0, 1)
