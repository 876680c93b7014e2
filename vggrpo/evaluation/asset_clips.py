"""What is measured of one clip: of a true one of the world, and of a generated one."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo.evaluation.camera_moves import classify_camera_moves, scene_depth_of
from vggrpo.evaluation.contact_sheet import key_frames
from vggrpo.evaluation.frechet import encoder_features
from vggrpo.evaluation.object_accuracy import ClipReading, read_clip
from vggrpo.evaluation.object_judge import Sighting, find_objects
from vggrpo.evaluation.prompt_claims import PromptClaims, read_claims
from vggrpo.evaluation.reconstruction import ReconstructionError, reconstruction_error
from vggrpo.evaluation.subjects import Autoencoder, FrameReader, LatentReader, ObjectCounter
from vggrpo.latent_geometry.metrics import GeometryMetrics, clip_metrics
from vggrpo.latent_geometry.pixel_grid import resize_for_geometry
from vggrpo.latents import frames_from_video, video_from_frames
from vggrpo.types import Latents, SceneGeometry, WorldClip

Features = Float[np.ndarray, "frames C"]


@dataclass(frozen=True, kw_only=True)
class AssetModels:
    """What is measured, and the judge of objects where there is one."""

    vae: Autoencoder
    geometry: FrameReader
    """Φ"""
    latent_geometry: LatentReader
    """Φ_g"""
    judge: ObjectCounter | None
    device: torch.device


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectReadings:
    """What the judge saw in a true clip: rendered, and decoded by the autoencoder as generated clips are."""

    rendered: ClipReading
    decoded: ClipReading
    named: tuple[Sighting, ...]
    """The caption's objects in the decoded clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrueClip:
    """Everything measured of one held-out clip of the world."""

    claims: PromptClaims
    reconstruction: ReconstructionError
    from_frames: GeometryMetrics
    """Φ on the frames, against the truth."""
    from_latents: GeometryMetrics
    """Φ_g on the latents, against the truth."""
    move_from_frames: str
    move_from_latents: str
    move_from_truth: str
    features: Features
    decoded_features: Features
    objects: ObjectReadings | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedClip:
    """Everything measured of one generated clip."""

    claims: PromptClaims
    move: str
    """By Φ, from the decoded frames."""
    features: Features
    sightings: tuple[Sighting, ...] | None
    """One for each object that the prompt names; None without a judge."""
    key_frames: UInt8[np.ndarray, "3 H W 3"]


@torch.no_grad()
def measure_true_clip(models: AssetModels, clip: WorldClip, *, seed: int) -> TrueClip:
    """Encode, decode, read a held-out clip, and compare with what is known of it; ``seed`` is the world's."""
    video = video_from_frames(torch.from_numpy(clip.rgb)[None]).to(models.device)
    latents = models.vae.encode_normalised(video)
    decoded = models.vae.decode_normalised(latents)
    from_frames = geometry_of(models.geometry, video)
    from_latents = _on_cpu(models.latent_geometry(latents))
    truth = clip.geometry.to_scene()
    return TrueClip(
        claims=read_claims(clip.caption),
        reconstruction=reconstruction_error(decoded, true=video),
        from_frames=clip_metrics(from_frames, clip=clip),
        from_latents=clip_metrics(from_latents, clip=clip),
        move_from_frames=move_of(from_frames)[0],
        move_from_latents=move_of(from_latents)[0],
        move_from_truth=move_of(truth)[0],
        features=features_of(models.geometry, video),
        decoded_features=features_of(models.geometry, decoded),
        objects=None if models.judge is None else _read_objects(models.judge, clip, decoded=decoded, seed=seed),
    )


@torch.no_grad()
def measure_generated(models: AssetModels, latents: Latents, *, prompts: tuple[str, ...]) -> list[GeneratedClip]:
    """Decode generated latents, one after the other, and judge each clip by its prompt."""
    measured = []
    for index, prompt in enumerate(prompts):
        video = models.vae.decode_normalised(Latents(tensor=latents.tensor[index : index + 1]))
        claims = read_claims(prompt)
        measured.append(
            GeneratedClip(
                claims=claims,
                move=move_of(geometry_of(models.geometry, video))[0],
                features=features_of(models.geometry, video),
                sightings=_named_objects(models.judge, video, claims=claims),
                key_frames=key_frames(frames_from_video(video)[0].numpy()),
            )
        )
    return measured


def geometry_of(model: FrameReader, video: Float[Tensor, "B 3 N H W"]) -> SceneGeometry:
    """Φ(x) of video in [-1, 1], on the CPU."""
    return _on_cpu(model.geometry(_geometry_images(model, video)))


def features_of(model: FrameReader, video: Float[Tensor, "B 3 N H W"]) -> Features:
    """Φ's encoder features of every frame of video in [-1, 1]."""
    return encoder_features(model, _geometry_images(model, video))


def move_of(scene: SceneGeometry) -> list[str]:
    """The camera move of each video of a batch."""
    return classify_camera_moves(scene.camera_from_world, scene_depth=scene_depth_of(scene))


def _geometry_images(model: FrameReader, video: Float[Tensor, "B 3 N H W"]) -> Float[Tensor, "B N 3 h w"]:
    return resize_for_geometry((video.transpose(1, 2) + 1.0) / 2.0, patch_size=model.patch_size)


def _judge_images(video: Float[Tensor, "1 3 N H W"]) -> Float[Tensor, "N 3 H W"]:
    return ((video[0].transpose(0, 1) + 1.0) / 2.0).clamp(0.0, 1.0).cpu()


def _named_objects(
    judge: ObjectCounter | None, video: Float[Tensor, "1 3 N H W"], *, claims: PromptClaims
) -> tuple[Sighting, ...] | None:
    if judge is None:
        return None
    images = _judge_images(video)
    frame_pixels = images.shape[-1] * images.shape[-2]
    return tuple(find_objects(judge.visible_pixels(images), named=claims.objects, frame_pixels=frame_pixels))


def _read_objects(
    judge: ObjectCounter, clip: WorldClip, *, decoded: Float[Tensor, "1 3 N H W"], seed: int
) -> ObjectReadings:
    rendered = torch.from_numpy(clip.rgb).permute(0, 3, 1, 2).float() / 255.0
    return ObjectReadings(
        rendered=read_clip(judge, rendered, object_id=clip.object_id, seed=seed),
        decoded=read_clip(judge, _judge_images(decoded), object_id=clip.object_id, seed=seed),
        named=_named_objects(judge, decoded, claims=read_claims(clip.caption)) or (),
    )


def _on_cpu(scene: SceneGeometry) -> SceneGeometry:
    return scene.map(lambda tensor: tensor.cpu())
