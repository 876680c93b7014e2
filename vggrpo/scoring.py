"""Rewards for what people bring: a geometry file (no model at all), latents (Φ_g), or a video (Φ).

Each function leaves a run folder with ``rewards.json``, ``geometry.npz``, ``error_maps.npz`` and ``manifest.json``, or
nothing; ``score_video`` adds the frames as they were judged. Raises UserError for a file that cannot be scored.
"""

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo import __version__
from vggrpo.presets import Preset
from vggrpo.rewards import RewardReport, judge
from vggrpo.runtime import run_folder
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.files import atomic_folder
from vggrpo.runtime.run_folder import RunFolder, VideoFrames
from vggrpo.types import ClipGeometry, Latents, SceneGeometry

MAX_FRAMES_READ = 600
"""A longer video is judged from its first frames."""
MIN_SIDE = 16
MIN_KEPT_SHARE = 0.25
"""A video is refused if fitting its aspect ratio would crop away more than the rest."""


@runtime_checkable
class GeometryReader(Protocol):
    """What scoring needs of ``vggrpo.generation.Studio``."""

    @property
    def preset(self) -> Preset:
        """Sizes and name."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[C, T, h, w] of the preset's latents."""
        ...

    def read_geometry(self, latents: Latents, *, reward_space: Literal["latent", "rgb"]) -> SceneGeometry:
        """Φ_g(z), or Φ of the decoded video."""
        ...

    def geometry_from_video(self, video: Float[Tensor, "B 3 N H W"]) -> SceneGeometry:
        """Φ(x), video in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedVideo:
    """A video at a preset's size, and in words what had to be done to it."""

    frames: UInt8[np.ndarray, "N H W 3"]
    notes: tuple[str, ...]


def score_geometry(file: Path, out: Path) -> RunFolder:
    """Rewards of a ``geometry.npz``."""
    geometry = run_folder.read_geometry(file)
    with atomic_folder(out) as folder:
        began = time.perf_counter()
        _write(folder, geometry, judge(geometry.to_scene()))
        _write_manifest(
            folder,
            {
                "kind": "score-geometry",
                "source": file.name,
                "geometry": "given",
                "num_frames": geometry.depth.shape[0],
                "timings": {"rewards": round(time.perf_counter() - began, 3)},
            },
        )
    return RunFolder(path=out)


def score_latents(
    file: Path, out: Path, studio: GeometryReader, *, reward_space: Literal["latent", "rgb"] = "latent"
) -> RunFolder:
    """Rewards of the geometry that Φ_g reads from latents; only ``rgb`` decodes them, and asks Φ."""
    stored = run_folder.read_latents(file)
    preset = studio.preset
    if stored.preset not in {"", preset.name}:
        raise UserError(
            f"{file} holds latents of the preset {stored.preset!r}: score it with --preset {stored.preset}."
        )
    shape = tuple(stored.latents.tensor.shape[1:])
    if shape != studio.latent_shape:
        raise UserError(
            f"{file}: latents have shape {list(shape)}; {preset.name} reads [C, T, h, w] = {list(studio.latent_shape)}"
            + (": give the video's --height, --width and --frames." if preset.is_released_model else ".")
        )
    with atomic_folder(out) as folder:
        began = time.perf_counter()
        scene = studio.read_geometry(stored.latents, reward_space=reward_space)
        geometry_done = time.perf_counter()
        _write(folder, ClipGeometry.from_scene(scene), judge(scene))
        _write_manifest(
            folder,
            {
                "kind": "score-latents",
                "source": file.name,
                "preset": preset.name,
                "geometry": "latent" if reward_space == "latent" else "video",
                "num_frames": scene.num_frames,
                "fps": preset.fps,
                "timings": _timings(began, geometry_done),
            },
        )
    return RunFolder(path=out)


def score_video(file: Path, out: Path, studio: GeometryReader) -> RunFolder:
    """Rewards of the geometry that Φ reads from a video's frames.

    The video is brought to the preset's size: frames are taken at its rate, the middle is cropped to its aspect ratio
    and resized. What was done stands in the manifest's ``notes``. Fewer frames than the preset's are a UserError.
    """
    video = run_folder.read_video(file, max_frames=MAX_FRAMES_READ)
    return score_frames(video, out, studio, name=file.name)


def score_frames(video: VideoFrames, out: Path, studio: GeometryReader, *, name: str) -> RunFolder:
    """``score_video`` of a file that was read already; ``name`` is what people call it."""
    preset = studio.preset
    fitted = fit_video(video, preset=preset, name=name)
    with atomic_folder(out) as folder:
        began = time.perf_counter()
        tensor = torch.from_numpy(fitted.frames)[None].permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0
        scene = studio.geometry_from_video(tensor)
        geometry_done = time.perf_counter()
        _write(folder, ClipGeometry.from_scene(scene), judge(scene))
        run_folder.write_video(folder / run_folder.VIDEO, fitted.frames, fps=preset.fps)
        _write_manifest(
            folder,
            {
                "kind": "score-video",
                "source": name,
                "preset": preset.name,
                "geometry": "video",
                "num_frames": preset.num_frames,
                "fps": preset.fps,
                "height": preset.height,
                "width": preset.width,
                "notes": list(fitted.notes),
                "timings": _timings(began, geometry_done),
            },
        )
    return RunFolder(path=out)


def fit_video(video: VideoFrames, *, preset: Preset, name: str) -> FittedVideo:
    """Bring a video to a preset's frames, rate and size. Raises a UserError where that would leave too little."""
    if len(video.frames) < preset.num_frames:
        raise UserError(f"{name} has {len(video.frames)} frames; at least {preset.num_frames} are needed.")
    chosen = _frames_at_rate(video, preset=preset)
    resized = _crop_and_resize(chosen.frames, preset=preset, name=name)
    return FittedVideo(frames=resized.frames, notes=chosen.notes + resized.notes)


def _frames_at_rate(video: VideoFrames, *, preset: Preset) -> FittedVideo:
    """As many frames as the preset has, at its rate if the video is long enough, else evenly spread over it."""
    count, needed = len(video.frames), preset.num_frames
    if count == needed:
        # Already the right number: its own pace is kept, whatever the file says of its rate.
        return FittedVideo(frames=video.frames, notes=())
    step = video.fps / preset.fps if video.fps > 0 else 1.0
    index = np.rint(np.arange(needed) * step).astype(int)
    if step >= 1 and index[-1] < count:
        pace = f"at {preset.fps} frames a second"
    else:
        index = np.rint(np.linspace(0, count - 1, needed)).astype(int)
        pace = f"evenly spread, {video.fps:g} frames a second in the file"
    more = " or more" if video.has_more else ""
    return FittedVideo(frames=video.frames[index], notes=(f"{needed} of {count}{more} frames, {pace}",))


def _crop_and_resize(frames: UInt8[np.ndarray, "N H W 3"], *, preset: Preset, name: str) -> FittedVideo:
    """The largest middle part of the preset's aspect ratio, resized with antialiasing."""
    height, width = frames.shape[1:3]
    if (height, width) == (preset.height, preset.width):
        return FittedVideo(frames=frames, notes=())
    if min(height, width) < MIN_SIDE:
        raise UserError(f"{name} has frames of {width} × {height}; give at least {MIN_SIDE} pixels a side.")
    aspect = preset.width / preset.height
    kept_height, kept_width = min(height, round(width / aspect)), min(width, round(height * aspect))
    if kept_height * kept_width < MIN_KEPT_SHARE * height * width:
        raise UserError(
            f"{name} has frames of {width} × {height}; too little is left of them at {preset.width} × {preset.height}."
        )
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    cropped = np.ascontiguousarray(frames[:, top : top + kept_height, left : left + kept_width])
    channels_first = torch.from_numpy(cropped).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(
        channels_first, size=(preset.height, preset.width), mode="bilinear", antialias=True
    )
    note = f"{width} × {height} cropped to {kept_width} × {kept_height}, resized to {preset.width} × {preset.height}"
    return FittedVideo(frames=resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy(), notes=(note,))


def _write(folder: Path, geometry: ClipGeometry, report: RewardReport) -> None:
    """The files that every score has."""
    run_folder.write_geometry(folder / run_folder.GEOMETRY, geometry)
    run_folder.write_rewards(folder / run_folder.REWARDS, report.to_json())
    run_folder.write_error_maps(folder / run_folder.ERROR_MAPS, report.terms)


def _write_manifest(folder: Path, entries: dict[str, object]) -> None:
    """The manifest, last: it marks the folder as finished."""
    versions = {"vggrpo": __version__, "python": platform.python_version(), "torch": version("torch")}
    files = sorted([*(path.name for path in folder.iterdir()), run_folder.MANIFEST])
    run_folder.write_manifest(folder / run_folder.MANIFEST, entries | {"versions": versions, "files": files})


def _timings(began: float, geometry_done: float) -> dict[str, float]:
    """Seconds of both phases up to now."""
    now = time.perf_counter()
    return {"geometry": round(geometry_done - began, 3), "rewards": round(now - geometry_done, 3)}
