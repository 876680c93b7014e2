"""What can be judged at all: a video that cannot gets NaN and a sentence, never a good score."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.types import RewardTerm, SceneGeometry

MIN_FRAMES = 3


def observed_pixels(scene: SceneGeometry) -> Bool[Tensor, "B N H W"]:
    """Pixels with usable geometry: marked valid, in front of the camera, finite in depth and point."""
    return scene.valid & (scene.depth > 0) & scene.depth.isfinite() & scene.points.isfinite().all(dim=-1)


def without_unusable_values(scene: SceneGeometry) -> SceneGeometry:
    """The scene with harmless numbers where it holds unusable ones, so that no gradient meets a NaN.

    The videos and pixels concerned are left out by ``common_reasons`` and by ``valid``.
    """
    observed = observed_pixels(scene)
    flow_valid = scene.flow_valid & observed & scene.scene_flow.isfinite().all(dim=-1)
    cameras, intrinsics = scene.camera_from_world, scene.intrinsics
    return replace(
        scene,
        camera_from_world=torch.where(cameras.isfinite(), cameras, torch.eye(4).to(cameras)),
        intrinsics=torch.where(intrinsics.isfinite(), intrinsics, torch.eye(3).to(intrinsics)),
        depth=torch.where(observed, scene.depth, 1.0),
        points=torch.where(observed[..., None], scene.points, 0.0),
        scene_flow=torch.where(flow_valid[..., None], scene.scene_flow, 0.0),
        valid=observed,
        flow_valid=flow_valid,
    )


def unit_of(scene: SceneGeometry) -> Float[Tensor, " B"]:
    """Scene scale of each video; 1 without a usable pixel, where ``common_reasons`` blanks every result."""
    return scene_scale(scene.depth, valid=observed_pixels(scene)).nan_to_num(nan=1.0)


def common_reasons(scene: SceneGeometry) -> list[str | None]:
    """Per video, why no reward at all can judge it, or None."""
    if scene.num_frames < MIN_FRAMES:
        return [f"the video has {scene.num_frames} frames, at least {MIN_FRAMES} are needed"] * scene.batch_size
    has_depth = observed_pixels(scene).flatten(1).any(dim=1).tolist()
    has_cameras = torch.cat([scene.camera_from_world.flatten(1), scene.intrinsics.flatten(1)], dim=1)
    reasons: list[str | None] = []
    for depth, cameras in zip(has_depth, has_cameras.isfinite().all(dim=1).tolist(), strict=True):
        if not cameras:
            reasons.append("a camera holds a number that is not finite")
        elif not depth:
            reasons.append("no frame has a pixel with valid depth")
        else:
            reasons.append(None)
    return reasons


def with_count_reasons(
    reasons: Sequence[str | None], *, counts: Int[Tensor, " B"], needed: int, sentence: str
) -> list[str | None]:
    """Give a reason to each video that has none and whose count is below ``needed``.

    ``sentence`` is a format string with {count} and {needed}.
    """
    return [
        sentence.format(count=count, needed=needed) if reason is None and count < needed else reason
        for reason, count in zip(reasons, counts.tolist(), strict=True)
    ]


def unjudged_term(name: str, *, scene: SceneGeometry, reasons: Sequence[str | None]) -> RewardTerm:
    """A term that is NaN for every video and frame."""
    nothing = torch.full(scene.depth.shape[:2], torch.nan, dtype=scene.depth.dtype, device=scene.depth.device)
    return RewardTerm(name=name, value=nothing[:, 0], per_frame=nothing, reasons=tuple(reasons))


def blank_where(reasons: Sequence[str | None], *, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
    """NaN for the videos that have a reason, and no gradient through them."""
    blank = torch.tensor([reason is not None for reason in reasons], device=values.device)
    return torch.where(blank.view(-1, *[1] * (values.ndim - 1)), torch.nan, values)
