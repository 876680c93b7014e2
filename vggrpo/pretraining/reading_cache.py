"""Φ's readings of clips on disk: each clip is read once, instead of at every training step that draws it.

A reading at full size is large, so it is kept for some frames of a clip only (``taught_frames``, chosen at random by
the clip's name), and in few digits:

    cameras, intrinsics     float32
    depth, points, flow     float16 in units of the scene's scale: eleven binary digits, errors below 5e-4 of a length,
                            a hundredth of what Φ_g misses Φ by; beyond 65504 scene scales they are cut off
    confidence              float16 of its logarithm, which is what the loss compares
    features                bfloat16, as Φ computes them where it runs in bfloat16
    valid, flow_valid       a byte a pixel; flow is left out where no pixel has any

What training reads always comes from the file, so a run that makes its cache and a run that finds it see the same bits.
"""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.latent_geometry.alignment_loss import Reading
from vggrpo.latent_geometry.foundation.base import DecodedFrames, GeometryModel
from vggrpo.latent_geometry.train import ClipPick, FrameDraw, Lesson, device_of, read_lesson
from vggrpo.pretraining.alignment_data import NamedClips
from vggrpo.runtime.tensor_cache import TensorCache
from vggrpo.runtime.weights_sketch import weights_sketch
from vggrpo.types import Latents, SceneGeometry

HALF_MAX = 65504.0
_LENGTHS = ("depth", "points", "scene_flow")


class CachedReadings:
    """Φ's readings by clip, made when missing; implements ``Lessons``."""

    def __init__(self, teacher: GeometryModel, *, cache: Path, taught_frames: int) -> None:
        """Readings lie in a folder below ``cache`` that belongs to this Φ, its precision and the number of frames."""
        self._teacher = teacher
        self._taught_frames = taught_frames
        parameter = next(cast(nn.Module, teacher).parameters())
        precision = str(parameter.dtype).removeprefix("torch.")
        sketch = weights_sketch(cast(nn.Module, teacher))[:12]
        self._cache = TensorCache(cache / f"readings-{sketch}-{precision}-{taught_frames}")

    def fill(self, picks: Iterable[ClipPick]) -> None:
        """Read what is not there yet, with progress."""
        missing = [pick for pick in picks if not self._cache.has(_identity(pick))]
        if missing:
            for pick in track(missing, description="Φ reads the clips", console=Console(stderr=True)):
                self._read(pick)

    def lesson(self, pick: ClipPick, *, draw: FrameDraw) -> Lesson:
        """Any of the clip's taught frames may be drawn."""
        tensors = self._cache.get(_identity(pick))
        if tensors is None:
            self._read(pick)
            tensors = self._cache.get(_identity(pick))
            assert tensors is not None, "just written"
        source = pick.source
        assert isinstance(source, NamedClips), "has an identity"
        return unpack_lesson(tensors, draw=draw, device=device_of(self._teacher), latents=source.latents(pick.index))

    def _read(self, pick: ClipPick) -> None:
        clip = pick.clip()
        frames = taught_frames(_identity(pick), count=clip.images.shape[1], wanted=self._taught_frames)
        self._cache.put(_identity(pick), pack_lesson(read_lesson(self._teacher, clip, frames=frames)))


def taught_frames(identity: str, *, count: int, wanted: int) -> Int[Tensor, " M"]:
    """The frames of a clip that are kept, in order: other clips have others, so that no place in time is left out."""
    rng = np.random.default_rng([zlib.crc32(identity.encode()), 0x7A06])
    return torch.from_numpy(np.sort(rng.choice(count, size=min(wanted, count), replace=False)))


def pack_lesson(lesson: Lesson) -> dict[str, Tensor]:
    """A reading of ``lesson.frames`` of one clip as it is kept (see the module's text)."""
    scene = lesson.theirs.decoded.scene
    unit = scene_scale(scene.depth, valid=scene.valid).nan_to_num(nan=1.0)
    # A power of two: dividing and multiplying by it loses nothing.
    unit = torch.exp2(unit.log2().round())
    features = lesson.theirs.features.index_select(1, lesson.frames.to(lesson.theirs.features.device))
    tensors = {
        "frames": lesson.frames,
        "unit": unit,
        "all_cameras": lesson.theirs.decoded.camera_from_world.float(),
        "camera_from_world": scene.camera_from_world.float(),
        "intrinsics": scene.intrinsics.float(),
        "log_confidence": scene.confidence.log().half(),
        "features": features.to(torch.bfloat16),
        "valid": scene.valid,
        "flow_valid": scene.flow_valid,
    }
    for name in _LENGTHS:
        lengths = getattr(scene, name) / unit.view(-1, *[1] * (getattr(scene, name).ndim - 1))
        tensors[name] = lengths.clamp(-HALF_MAX, HALF_MAX).half()
    if not bool(scene.flow_valid.any()):
        del tensors["scene_flow"], tensors["flow_valid"]
    # Copies: a model may give one mask for both, and files hold no tensor twice.
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def unpack_lesson(tensors: Mapping[str, Tensor], *, draw: FrameDraw, device: torch.device, latents: Latents) -> Lesson:
    """The lesson on those kept frames that ``draw`` chooses."""
    frames = tensors["frames"]
    drawn = draw(frames)
    places = torch.searchsorted(frames, drawn)

    def chosen(name: str) -> Tensor:
        return tensors[name].index_select(1, places).to(device)

    unit = tensors["unit"].to(device)
    valid = chosen("valid")
    lengths = {
        name: chosen(name).float() * unit.view(-1, *[1] * (tensors[name].ndim - 1))
        for name in _LENGTHS
        if name in tensors
    }
    scene = SceneGeometry(
        camera_from_world=chosen("camera_from_world"),
        intrinsics=chosen("intrinsics"),
        depth=lengths["depth"],
        points=lengths["points"],
        scene_flow=lengths.get("scene_flow", torch.zeros_like(lengths["points"])),
        confidence=chosen("log_confidence").float().exp(),
        valid=valid,
        flow_valid=chosen("flow_valid") if "flow_valid" in tensors else torch.zeros_like(valid),
    )
    decoded = DecodedFrames(camera_from_world=tensors["all_cameras"].to(device), scene=scene)
    theirs = Reading(decoded=decoded, features=tensors["features"].to(device))
    return Lesson(latents=latents, theirs=theirs, frames=drawn, feature_frames=frames)


def reading_bytes(*, pixels: int, tokens: int, token_dim: int, num_frames: int, taught: int) -> int:
    """What one clip's reading takes on disk: ``pixels`` and ``tokens`` of a frame, all its frames, the taught ones."""
    dense = pixels * (2 * (1 + 3 + 3 + 1) + 2)
    return min(taught, num_frames) * (dense + 2 * tokens * token_dim + 4 * (16 + 9)) + 4 * 16 * num_frames


def _identity(pick: ClipPick) -> str:
    assert isinstance(pick.source, NamedClips), "only clips with names can be kept"
    return pick.source.identity(pick.index)
