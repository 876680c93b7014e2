"""``evaluate jitter``: can the reward see what VGGRPO is to repair?

Half of the world's clips shake, and no caption says so. Every stage between a rendered clip and the latent reward may
lose that: Φ may be too coarse, the video VAE may smooth it away, Φ_g may not read it. The same held-out worlds are
filmed steadily and with handheld jitter, and camera motion smoothness is taken at each stage:

    truth     the exact cameras: what there is to see
    frames    Φ on the rendered frames
    decoded   Φ on their VAE reconstruction: what a video model behind this VAE could show at all
    latents   Φ_g on the latents: what training is rewarded for

A policy gradient needs a difference at the last stage. Where it vanishes, the stage before says who lost it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vggrpo.evaluation import estimates
from vggrpo.evaluation.asset_clips import AssetModels, geometry_of
from vggrpo.evaluation.asset_rows import Row
from vggrpo.latents import video_from_frames
from vggrpo.rewards import motion_smoothness
from vggrpo.types import SceneGeometry, WorldClip

STAGES = ("truth", "frames", "decoded", "latents")
_NAMES = {
    "truth": "exact cameras",
    "frames": "Φ on rendered frames",
    "decoded": "Φ on their VAE reconstruction",
    "latents": "Φ_g on latents",
}

FilmWorld = Callable[[int, bool], WorldClip]
"""The clip of a world seed, with jitter or without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JitterSight:
    """Camera motion smoothness by stage: of each world filmed steadily, and of the same one filmed with jitter."""

    steady: dict[str, Float[np.ndarray, " worlds"]]
    shaken: dict[str, Float[np.ndarray, " worlds"]]

    def rows(self) -> tuple[Row, ...]:
        """A row for the difference at each stage, with both means below it."""
        found: list[Row] = []
        for stage in STAGES:
            steady, shaken = self.steady[stage], self.shaken[stage]
            for key, name, values in (
                ("difference", f"{_NAMES[stage]}: steady – shaken", steady - shaken),
                ("steady", "steady", steady),
                ("shaken", "shaken", shaken),
            ):
                part = "camera motion smoothness" if key == "difference" else ""
                row = Row(
                    key=f"jitter/{stage}/{key}", part=part, name=name, estimate=estimates.mean(values, of="worlds")
                )
                found.append(row)
        return tuple(found)


@torch.no_grad()
def measure_jitter_sight(
    models: AssetModels, *, worlds: int, first_seed: int, film: FilmWorld, on_world: Callable[[int], None]
) -> JitterSight:
    """Film ``worlds`` held-out worlds from ``first_seed`` on, both ways. ``on_world`` is told how many are done."""
    found: dict[bool, dict[str, list[float]]] = {shaken: {stage: [] for stage in STAGES} for shaken in (False, True)}
    for number in range(worlds):
        for shaken, values in found.items():
            clip = film(first_seed + number, shaken)
            for stage, scene in _scenes(models, clip).items():
                values[stage].append(float(motion_smoothness(scene).value[0]))
        on_world(number + 1)
    steady, shaken_values = ({stage: np.array(v) for stage, v in found[way].items()} for way in (False, True))
    return JitterSight(steady=steady, shaken=shaken_values)


def _scenes(models: AssetModels, clip: WorldClip) -> dict[str, SceneGeometry]:
    video = video_from_frames(torch.from_numpy(clip.rgb)[None]).to(models.device)
    latents = models.vae.encode_normalised(video)
    return {
        "truth": clip.geometry.to_scene(),
        "frames": geometry_of(models.geometry, video),
        "decoded": geometry_of(models.geometry, models.vae.decode_normalised(latents)),
        "latents": models.latent_geometry(latents),
    }
