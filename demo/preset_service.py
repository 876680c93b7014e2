"""Which presets this server can draw with, and in a plain sentence why not with the others; no model is loaded."""

from dataclasses import dataclass
from typing import Any

RGB_NOTE = (
    "No latent geometry model has been trained for it on this server, so rewards are read from the decoded video, and "
    "cannot guide."
)


@dataclass(frozen=True, kw_only=True)
class PresetOption:
    """One preset as the page offers it. ``why_not`` is empty where it can be used."""

    name: str
    summary: str
    why_not: str
    note: str
    steps: int
    guidance: float
    takes_first_frame: bool
    closed_vocabulary: bool
    can_guide: bool
    """Whether rewards can guide the sampling: they need a latent geometry model."""
    size: str


def preset_options(own: str) -> tuple[PresetOption, ...]:
    """The server's own preset first; the one for tests only where it is that."""
    from vggrpo.presets import PRESETS

    shown = [preset for name, preset in PRESETS.items() if name == own or preset.folders or preset.is_released_model]
    return tuple(preset_option(preset) for preset in sorted(shown, key=lambda preset: preset.name != own))


def preset_option(preset: Any) -> PresetOption:
    """What the page says of a ``vggrpo.presets.Preset``."""
    can_guide = not preset.is_released_model or _has_latent_geometry(preset.name)
    return PresetOption(
        name=preset.name,
        summary=preset.summary,
        why_not=_why_not(preset),
        note="" if can_guide else RGB_NOTE,
        steps=preset.steps,
        guidance=preset.guidance,
        takes_first_frame=preset.takes_first_frame,
        closed_vocabulary=preset.closed_vocabulary,
        can_guide=can_guide,
        size=f"{preset.num_frames} frames · {preset.width}×{preset.height} · {preset.fps} fps",
    )


def _has_latent_geometry(name: str) -> bool:
    from vggrpo.runtime.local_models import local_models

    return local_models(name).latent_geometry is not None


def _why_not(preset: Any) -> str:
    """Why this machine cannot draw with a preset, or nothing."""
    if preset.folders is not None and not preset.folders.pipeline.is_dir():
        return f"The weights of {preset.name} are not on this machine."
    if not preset.is_released_model:
        return ""
    from vggrpo.runtime.gpu import has_gpu
    from vggrpo.runtime.hub import cached
    from vggrpo.runtime.local_models import MODELS, local_models

    if not has_gpu():
        return f"{preset.name} needs {preset.memory_need}, and this machine has no GPU."
    if local_models(preset.name).pipeline is None and cached(preset.hub) is None:
        return (
            f"The weights of {preset.name} (about {preset.hub.gigabytes:g} GB) are not on this machine. Whoever runs "
            f"the server can fetch them with `python -m vggrpo generate --preset {preset.name}`, or put them into the "
            f"folder that {MODELS} names."
        )
    return ""
