"""``evaluate robustness``: whose cameras survive noise on the latents, Φ_g's or those of Φ behind the decoder?

The paper's argument for a latent reward: a sampler's latents are never quite those of a real video. To latents z of
held-out world clips, normalised to a standard deviation of about 1, noise of growing size is added,

    z_σ = z + σ ε,     ε ~ N(0, I), the same for every σ of a clip,

and the camera is read twice: by Φ_g(z_σ), and by Φ(decode(z_σ)). Errors are the angles between relative poses of all
pairs of frames, rotation and direction of travel (``geometry.alignment.trajectory_error``: free of world frame and
scale), against the exact cameras, and against the same reader's own reading at σ = 0. The first says who is right, the
second who stays the same: a reader that is wrong without noise may still be the steadier one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float

from vggrpo.evaluation import estimates
from vggrpo.evaluation.asset_clips import AssetModels, geometry_of
from vggrpo.evaluation.estimates import Estimate
from vggrpo.evaluation.reconstruction import peak_signal_to_noise, reconstruction_error
from vggrpo.geometry.alignment import trajectory_error
from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.latent_geometry.metrics import MIN_BASELINE
from vggrpo.latents import video_from_frames
from vggrpo.types import Latents, SceneGeometry, WorldClip

READERS = {"latent": "Φ_g(z + σ ε)", "decoded": "Φ(decode(z + σ ε))"}
AGAINST = {"truth": "exact cameras", "clean": "own clean reading"}
MEASURES = {"rotation_degrees": "rotation", "direction_degrees": "direction"}
CHANCE_DEGREES = 90.0
"""Mean angle between two random directions in space."""

Errors = Float[np.ndarray, "levels clips"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorKey:
    """Which error: whose reading, against what, and of which part of the pose."""

    reader: str
    against: str
    measure: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """Pose errors in degrees by noise level and clip; NaN where a clip's camera has no direction of travel.

    ``squared`` are mean squared errors of decoded pixels (full range 1) against the clip; ``at_rest`` is what the
    rotation error would be for a camera believed to stand still.
    """

    levels: tuple[float, ...]
    errors: dict[ErrorKey, Errors]
    squared: Errors
    at_rest: Float[np.ndarray, " clips"]

    def estimate(self, key: ErrorKey, *, level: int) -> Estimate:
        """Mean error over clips at the level of an index, with its interval."""
        return estimates.mean(self.errors[key][level])

    def advantage(self, *, against: str, measure: str, level: int) -> Estimate:
        """Error of the decoded reading − error of the latent one, over the same clips: above 0 Φ_g is the better."""
        decoded, latent = (
            self.errors[ErrorKey(reader=reader, against=against, measure=measure)][level]
            for reader in ("decoded", "latent")
        )
        return estimates.mean(decoded - latent)

    def to_json(self) -> dict[str, object]:
        """For a result file."""
        return {
            "levels": list(self.levels),
            "clips": len(self.at_rest),
            "rows": list(self._rows()),
            "advantage": list(self._advantages()),
            "decoded_psnr": [estimates.bootstrap(row[:, None], statistic=_psnr).to_json() for row in self.squared],
            "yardsticks": {
                "rotation_degrees": estimates.mean(self.at_rest).to_json(),
                "direction_degrees": CHANCE_DEGREES,
            },
        }

    def _rows(self) -> Iterator[dict[str, object]]:
        for reader, against, measure in product(READERS, AGAINST, MEASURES):
            key = ErrorKey(reader=reader, against=against, measure=measure)
            for index, level in enumerate(self.levels):
                told = {"reader": reader, "against": against, "measure": measure, "level": level}
                yield told | {"estimate": self.estimate(key, level=index).to_json()}

    def _advantages(self) -> Iterator[dict[str, object]]:
        for against, measure in product(AGAINST, MEASURES):
            for index, level in enumerate(self.levels):
                found = self.advantage(against=against, measure=measure, level=index)
                yield {"against": against, "measure": measure, "level": level, "estimate": found.to_json()}


@torch.no_grad()
def measure_robustness(
    models: AssetModels,
    *,
    levels: Sequence[float],
    seeds: Sequence[int],
    film: Callable[[int], WorldClip],
    on_clip: Callable[[int], None],
) -> Robustness:
    """Read the clips of held-out world ``seeds`` at every noise level; the noise of a clip is drawn from its seed.

    ``levels`` rise and start at 0. ``on_clip`` is told how many clips are done.
    """
    if not levels or levels[0] != 0.0 or list(levels) != sorted(set(levels)):
        raise ValueError(f"noise levels rise from 0, not {list(levels)}")
    shape = (len(levels), len(seeds))
    keys = [
        ErrorKey(reader=reader, against=against, measure=measure)
        for reader, against, measure in product(READERS, AGAINST, MEASURES)
    ]
    errors = {key: np.full(shape, np.nan) for key in keys}
    squared, at_rest = np.full(shape, np.nan), np.full(len(seeds), np.nan)
    for column, seed in enumerate(seeds):
        clip = film(seed)
        truth = clip.geometry.to_scene()
        at_rest[column] = _at_rest(truth)
        clean: dict[str, SceneGeometry] = {}
        for row, reading in enumerate(_readings(models, clip, levels=levels, seed=seed)):
            squared[row, column] = reading.squared_error
            for reader, scene in reading.scenes.items():
                against = {"truth": truth, "clean": clean.setdefault(reader, scene)}
                for name, reference in against.items():
                    for measure, value in _pose_errors(scene, reference, truth=truth).items():
                        errors[ErrorKey(reader=reader, against=name, measure=measure)][row, column] = value
        on_clip(column + 1)
    return Robustness(levels=tuple(levels), errors=errors, squared=squared, at_rest=at_rest)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """Both readers' geometry at one noise level, and how far the decoded video is from the clip."""

    scenes: dict[str, SceneGeometry]
    squared_error: float


def _readings(models: AssetModels, clip: WorldClip, *, levels: Sequence[float], seed: int) -> Iterator[_Reading]:
    """What both readers see at each level."""
    video = video_from_frames(torch.from_numpy(clip.rgb)[None]).to(models.device)
    latents = models.vae.encode_normalised(video).tensor
    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU: every machine adds the same noise.
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    for level in levels:
        noisy = Latents(tensor=latents + level * noise)
        decoded = models.vae.decode_normalised(noisy).clamp(-1.0, 1.0)
        latent_scene = models.latent_geometry(noisy).map(lambda tensor: tensor.cpu())
        yield _Reading(
            scenes={"latent": latent_scene, "decoded": geometry_of(models.geometry, decoded)},
            squared_error=reconstruction_error(decoded, true=video).squared,
        )


def _pose_errors(scene: SceneGeometry, reference: SceneGeometry, *, truth: SceneGeometry) -> dict[str, float]:
    """Angles in degrees by measure.

    A baseline too short to have a direction is told in metres; a model of another unit gets the same share of its
    scene's size.
    """
    unit = float(scene_scale(reference.depth, valid=reference.valid) / scene_scale(truth.depth, valid=truth.valid))
    found = trajectory_error(
        scene.camera_from_world, true=reference.camera_from_world, min_baseline=MIN_BASELINE * unit
    )
    return {"rotation_degrees": float(found.rotation[0]), "direction_degrees": float(found.translation_direction[0])}


def _at_rest(truth: SceneGeometry) -> float:
    """The rotation error of a camera that is believed to stand still."""
    resting = torch.eye(4).expand_as(truth.camera_from_world)
    return float(trajectory_error(resting, true=truth.camera_from_world).rotation[0])


def _psnr(rows: np.ndarray) -> np.ndarray:
    # A decoder without any error has no PSNR; the estimate says so.
    with np.errstate(divide="ignore"):
        return peak_signal_to_noise(rows[..., 0])
