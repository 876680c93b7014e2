"""Batches of world clips for the geometry model: which frames it sees, and their exact geometry."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry.projection import rigid_inverse, transform_points
from vggrpo.types import SceneGeometry, WorldClip
from vggrpo.worlds.motions import motions_to_first
from vggrpo.worlds.scenes import SceneSpec

# Sensor-like noise on the images (1 = white): videos decoded by a VAE are not as clean as rendered ones.
MAX_IMAGE_NOISE = 0.02
BLUR_SHARE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryBatch:
    """B clips of N chosen frames each: images in [0, 1] and the truth, in the camera of the clip's first chosen frame.

    Every clip has its own frames, so that one step sees near and far motions: after 1500 steps matching's cross entropy
    was 1.31, and 1.46 with frames shared by the batch.

    ``offsets`` are the chosen frames' distances from the first, in frames; ``dense`` those (as indices into N) that get
    dense losses. ``flow_known`` marks frames whose flow can be told from the chosen frames: the next one is among them,
    or, for a clip's last frame, the one before. ``moving`` marks pixels of moving objects. ``first_points`` is where
    the point behind each pixel was at the time of the first chosen frame, in that frame's camera, metres: for what
    stands still, ``truth.points``.
    """

    images: Float[Tensor, "B N 3 H W"]
    truth: SceneGeometry
    first_points: Float[Tensor, "B N H W 3"]
    moving: Bool[Tensor, "B N H W"]
    offsets: Int[Tensor, "B N"]
    dense: Int[Tensor, " M"]
    flow_known: Bool[Tensor, "B N"]


def choose_frames(rng: np.random.Generator, *, total: int, count: int) -> Int[np.ndarray, " count"]:
    """``count`` sorted frames of a clip: half the time consecutive ones, half the time scattered ones."""
    if rng.random() < 0.5:
        return rng.integers(total - count + 1) + np.arange(count)
    return np.sort(rng.choice(total, size=count, replace=False))


def choose_ordered(rng: np.random.Generator, *, total: int, count: int) -> Int[np.ndarray, " count"]:
    """``count`` scattered frames, forwards or, half the time, backwards: cameras do not mind the arrow of time."""
    frames = np.sort(rng.choice(total, size=count, replace=False))
    return frames if rng.random() < 0.5 else frames[::-1].copy()


def known_flow(frames: Int[np.ndarray, " N"], *, total: int) -> Bool[np.ndarray, " N"]:
    """Frames whose flow is determined by the chosen frames (see ``GeometryBatch.flow_known``); backwards, none is."""
    if frames[-1] < frames[0]:
        return np.zeros(len(frames), dtype=bool)
    known = np.isin(frames + 1, frames)
    known |= (frames == total - 1) & np.isin(frames - 1, frames)
    return known


def make_batch(
    clips: Sequence[WorldClip],
    *,
    scenes: Sequence[SceneSpec],
    frames: Int[np.ndarray, "B N"],
    dense: Int[np.ndarray, " M"],
    total: int,
) -> GeometryBatch:
    """Batch clips of N frames, which are ``frames`` of ``total``, their truth re-anchored on the first of them.

    ``scenes`` are what the clips were rendered from.
    """
    known = np.stack([known_flow(row, total=total) for row in frames])
    rgb = torch.from_numpy(np.stack([clip.rgb for clip in clips]))
    moving = torch.from_numpy(np.stack([clip.moving for clip in clips]))
    first_points = [
        points_at_first(clip, motions=motions_to_first(scene, frames=row, num_frames=total))
        for clip, scene, row in zip(clips, scenes, frames, strict=True)
    ]
    anchored = [anchor_on_first(clip.geometry.to_scene()) for clip in clips]
    names = SceneGeometry.__dataclass_fields__
    truth = SceneGeometry(**{name: torch.cat([getattr(scene, name) for scene in anchored]) for name in names})
    return GeometryBatch(
        images=rgb.permute(0, 1, 4, 2, 3).float() / 255,
        truth=truth,
        first_points=torch.from_numpy(np.stack(first_points)),
        moving=moving,
        offsets=torch.from_numpy(np.abs(frames - frames[:, :1])),
        dense=torch.from_numpy(dense),
        flow_known=torch.from_numpy(known),
    )


def points_at_first(clip: WorldClip, *, motions: Float[np.ndarray, "N ids 4 4"]) -> Float[np.ndarray, "N H W 3"]:
    """The clip's points moved with their objects to the time of its first frame, in the camera of that frame."""
    whole = clip.geometry.camera_from_world[0].astype(np.float64) @ motions
    frame = np.arange(len(motions))[:, None, None]
    to_first = whole[frame, clip.object_id].astype(np.float32)
    points = np.einsum("nhwij,nhwj->nhwi", to_first[..., :3, :3], clip.geometry.points)
    return points + to_first[..., :3, 3]


def anchor_on_first(scene: SceneGeometry) -> SceneGeometry:
    """The same scene with the camera of its first frame as the world frame."""
    anchor = scene.camera_from_world[:, 0]
    points = transform_points(anchor, scene.points.flatten(1, 3)).reshape(scene.points.shape)
    flow = torch.einsum("bij,bnhwj->bnhwi", anchor[:, :3, :3], scene.scene_flow)
    camera = scene.camera_from_world @ rigid_inverse(anchor)[:, None]
    return replace(scene, camera_from_world=camera, points=points, scene_flow=flow)


def mirror(batch: GeometryBatch) -> GeometryBatch:
    """The same scenes in a mirror: columns reversed, x turned round in every camera and in the world."""
    truth = batch.truth
    flip = torch.tensor([-1.0, 1.0, 1.0])
    rigid = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    intrinsics = truth.intrinsics.clone()
    intrinsics[..., 0, 2] = truth.depth.shape[-1] - intrinsics[..., 0, 2]
    columns = {name: getattr(truth, name).flip(3) for name in ("depth", "confidence", "valid", "flow_valid")}
    vectors = {name: getattr(truth, name).flip(3) * flip for name in ("points", "scene_flow")}
    mirrored = replace(
        truth,
        camera_from_world=rigid @ truth.camera_from_world @ rigid,
        intrinsics=intrinsics,
        **columns,
        **vectors,
    )
    return replace(
        batch,
        images=batch.images.flip(-1),
        moving=batch.moving.flip(3),
        first_points=batch.first_points.flip(3) * flip,
        truth=mirrored,
    )


def degrade(images: Float[Tensor, "B N 3 H W"], *, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Noise, and on a share of batches a slight blur: what a VAE does to a video, so that Φ is used to it."""
    if rng.random() < BLUR_SHARE:
        flat = torch.nn.functional.pad(images.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
        blurred = torch.nn.functional.avg_pool2d(flat, kernel_size=3, stride=1).unflatten(0, images.shape[:2])
        images = images.lerp(blurred, float(rng.uniform(0.3, 1.0)))
    noise = torch.randn(images.shape, generator=generator)
    return (images + float(rng.uniform(0, MAX_IMAGE_NOISE)) * noise).clamp(0, 1)
