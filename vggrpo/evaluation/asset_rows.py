"""From measured clips to the table: a row for every target, with its value, interval and verdict."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vggrpo.evaluation import estimates
from vggrpo.evaluation.asset_clips import Features, GeneratedClip, TrueClip
from vggrpo.evaluation.estimates import Estimate
from vggrpo.evaluation.frechet import frechet_distance
from vggrpo.evaluation.object_accuracy import ClipReading
from vggrpo.evaluation.object_judge import Sighting
from vggrpo.evaluation.reconstruction import peak_signal_to_noise
from vggrpo.latent_geometry.metrics import GeometryMetrics

NO_JUDGE = "no judge shipped: train one with `pretrain judge` and give it with --judge"
MAX_WEIGHT_BYTES = 60_000_000
GEOMETRY_GOALS = (
    ("depth", "depth AbsRel", "depth_abs_rel", 0.04, ""),
    ("rotation", "rotation between frames", "rotation_degrees", 1.0, "°"),
    ("direction", "direction of travel between frames", "translation_direction_degrees", 5.0, "°"),
    ("flow", "scene flow of moving objects, relative", "flow_relative_epe", 0.2, ""),
)
"""Key, name, entry of ``GeometryMetrics``, and the largest error that is aimed at."""
LATENT_GOAL = 1.3
FRECHET_GOAL = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a value should be: at least or at most a bound."""

    bound: float
    at_most: bool
    unit: str = ""

    def is_reached_by(self, estimate: Estimate) -> bool | None:
        """None where nothing was measured."""
        if not estimate.is_measured:
            return None
        return estimate.value <= self.bound if self.at_most else estimate.value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {show_number(self.bound, unit=self.unit)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number of the table. ``goal`` is None for a number that only helps to read the others."""

    key: str
    part: str
    name: str
    estimate: Estimate
    goal: Goal | None = None
    unit: str = ""
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """None without a goal or a value."""
        return None if self.goal is None else self.goal.is_reached_by(self.estimate)

    def to_json(self) -> dict[str, object]:
        """For a file."""
        entry: dict[str, object] = {"part": self.part, "name": self.name, "unit": self.unit, **self.estimate.to_json()}
        if self.note:
            entry["note"] = self.note
        if self.goal is not None:
            entry |= {"target": self.goal.bound, "at_most": self.goal.at_most, "reached": self.reached}
        return entry


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherClips:
    """Φ's features of further true clips, none of which the others are: the yardstick of a Fréchet distance."""

    features: Sequence[Features]


def asset_rows(
    true: Sequence[TrueClip],
    generated: Sequence[GeneratedClip],
    *,
    others: OtherClips,
    weight_bytes: Sequence[int] | None,
) -> tuple[Row, ...]:
    """The whole table; ``weight_bytes``, one number a file, is None where nothing ships."""
    return (
        *_vae_rows(true),
        *_move_rows(true, generated),
        *_object_rows(true, generated),
        *_geometry_rows(true),
        *_latent_rows(true),
        *_frechet_rows(true, generated, others=others),
        _size_row(weight_bytes),
    )


def show_number(value: float, *, unit: str = "") -> str:
    """Three significant digits, shares in per cent, "–" for nothing."""
    if not math.isfinite(value):
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %"
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    text = text.replace("-", "−", 1) if value < 0.0 else text
    return f"{text}{unit}" if unit in {"", "°"} else f"{text} {unit}"


def _vae_rows(true: Sequence[TrueClip]) -> tuple[Row, ...]:
    def psnr_row(key: str, name: str, errors: list[float], goal: Goal | None = None) -> Row:
        rows = np.array(errors, dtype=np.float64)[:, None]
        psnr = estimates.bootstrap(rows, statistic=lambda chosen: peak_signal_to_noise(chosen[..., 0]))
        return Row(key=key, part="VAE", name=name, estimate=psnr, unit="dB", goal=goal)

    errors = [clip.reconstruction for clip in true]
    chroma = estimates.mean(np.array([error.chroma_correlation for error in errors]))
    return (
        psnr_row(
            "vae/psnr",
            "reconstruction, PSNR",
            [error.squared for error in errors],
            Goal(bound=30.0, at_most=False, unit="dB"),
        ),
        psnr_row("vae/psnr_first_frame", "of the first frame", [error.squared_first_frame for error in errors]),
        Row(key="vae/chroma", part="VAE", name="correlation of chroma", estimate=chroma),
    )


def _move_rows(true: Sequence[TrueClip], generated: Sequence[GeneratedClip]) -> tuple[Row, ...]:
    named = [clip for clip in generated if clip.claims.camera_move is not None]
    hits = estimates.share([clip.move == clip.claims.camera_move for clip in named])

    def ceiling(key: str, name: str, move: Callable[[TrueClip], str]) -> Row:
        found = estimates.share([move(clip) == clip.claims.camera_move for clip in true])
        return Row(key=f"camera/{key}", part="", name=name, estimate=found, unit="%")

    return (
        Row(
            key="video/camera_move",
            part="video model",
            name="camera move of the prompt, by Φ on decoded frames",
            estimate=hits,
            unit="%",
            goal=Goal(bound=0.9, at_most=False, unit="%"),
        ),
        ceiling(
            "by_phi_on_true", "the judge's own: Φ's trajectories of true clips", lambda clip: clip.move_from_frames
        ),
        ceiling("by_lgm_on_true", "Φ_g's trajectories of true clips", lambda clip: clip.move_from_latents),
        ceiling("by_truth", "exact trajectories of true clips", lambda clip: clip.move_from_truth),
    )


def _object_rows(true: Sequence[TrueClip], generated: Sequence[GeneratedClip]) -> tuple[Row, ...]:
    goal = Goal(bound=0.85, at_most=False, unit="%")
    first = {"key": "video/objects", "part": "video model", "name": "objects of the prompt in colour and shape"}
    judged = [clip.sightings for clip in generated if clip.sightings is not None]
    readings = [clip.objects for clip in true if clip.objects is not None]
    if not readings:
        missing = estimates.not_measured(NO_JUDGE, of="objects")
        return (Row(**first, estimate=missing, unit="%", goal=goal),)
    named = [sighting for clip in judged for sighting in clip]
    in_true = [sighting for reading in readings for sighting in reading.named]

    def row(key: str, name: str, hits: Sequence[bool]) -> Row:
        return Row(key=f"objects/{key}", part="", name=name, estimate=estimates.share(hits, of="objects"), unit="%")

    def accuracy(key: str, clips: Sequence[ClipReading]) -> tuple[Row, Row]:
        found = [hit for clip in clips for hit in clip.found]
        right = [hit for clip in clips for hit in clip.right]
        return (
            row(f"judge_recall_{key}", f"judge's recall on {key} true clips", found),
            row(f"judge_precision_{key}", f"judge's precision on {key} true clips", right),
        )

    return (
        Row(**first, estimate=estimates.share(_whole(named), of="objects"), unit="%", goal=goal),
        row("colours", "their colours", [sighting.colour for sighting in named]),
        row("shapes", "shapes of those whose colour was seen", [one.shape for one in named if one.colour]),
        row("in_true", "the judge's own: the same for true clips, decoded", _whole(in_true)),
        *accuracy("decoded", [reading.decoded for reading in readings]),
        *accuracy("rendered", [reading.rendered for reading in readings]),
    )


def _whole(sightings: Sequence[Sighting]) -> list[bool]:
    return [sighting.whole for sighting in sightings]


def _geometry_rows(true: Sequence[TrueClip]) -> tuple[Row, ...]:
    return tuple(
        Row(
            key=f"phi/{key}",
            part="Φ on frames",
            name=name,
            estimate=estimates.mean(_errors([clip.from_frames for clip in true], entry)),
            unit=unit,
            goal=Goal(bound=bound, at_most=True, unit=unit),
        )
        for key, name, entry, bound, unit in GEOMETRY_GOALS
    )


def _latent_rows(true: Sequence[TrueClip]) -> tuple[Row, ...]:
    """Φ_g's error and, as a multiple of Φ's, the row that has the goal."""
    rows = []
    for key, name, entry, _, unit in GEOMETRY_GOALS:
        own = _errors([clip.from_latents for clip in true], entry)
        reference = _errors([clip.from_frames for clip in true], entry)
        rows += [
            Row(
                key=f"lgm/{key}",
                part="Φ_g on latents",
                name=f"{name}, times Φ's",
                estimate=estimates.ratio_of_means(own, below=reference),
                goal=Goal(bound=LATENT_GOAL, at_most=True),
            ),
            Row(key=f"lgm/{key}_error", part="", name=name, estimate=estimates.mean(own), unit=unit),
        ]
    return tuple(rows)


def _errors(metrics: Sequence[GeometryMetrics], entry: str) -> Float[np.ndarray, " clips"]:
    return np.array([getattr(one, entry) for one in metrics], dtype=np.float64)


def _frechet_rows(
    true: Sequence[TrueClip], generated: Sequence[GeneratedClip], *, others: OtherClips
) -> tuple[Row, ...]:
    """Distances of equally many clips; no interval, because a resample's repeated clips raise the distance."""
    clean = np.concatenate([clip.features for clip in true])
    frames = len(true[0].features)

    def distance(features: Sequence[Features]) -> Estimate:
        if len(clean) <= clean.shape[1]:
            few = f"{len(clean)} frames are too few for a covariance of {clean.shape[1]} features"
            return estimates.not_measured(few)
        value = frechet_distance(np.concatenate(features), second=clean)
        return estimates.single(value, n=len(features), of="clips")

    between = distance([clip.features for clip in generated])
    decoded = distance([clip.decoded_features for clip in true])
    both = between.is_measured and decoded.is_measured
    ratio = (
        estimates.single(between.value / decoded.value, n=len(generated), of="clips")
        if both
        else estimates.not_measured(between.reason or "")
    )
    dimension = clean.shape[1]
    note = f"Φ's encoder after its last block, mean over patches: {dimension} features a frame, {frames} frames a clip"
    return (
        Row(
            key="video/frechet_ratio",
            part="video model",
            name="Fréchet distance to true clips, times the VAE's",
            estimate=ratio,
            goal=Goal(bound=FRECHET_GOAL, at_most=True),
            note=note,
        ),
        Row(key="frechet/generated", part="", name="generated – true clips of the same captions", estimate=between),
        Row(key="frechet/decoded", part="", name="true clips – their VAE reconstructions", estimate=decoded),
        Row(
            key="frechet/floor",
            part="",
            name="other true clips – true clips (what so few clips give)",
            estimate=distance(others.features),
        ),
    )


def _size_row(weight_bytes: Sequence[int] | None) -> Row:
    estimate = (
        estimates.not_measured("what was measured does not ship", of="files")
        if weight_bytes is None
        else estimates.single(sum(weight_bytes) / 1e6, n=len(weight_bytes), of="files")
    )
    goal = Goal(bound=MAX_WEIGHT_BYTES / 1e6, at_most=True, unit="MB")
    return Row(key="size", part="all weights", name="safetensors together", estimate=estimate, unit="MB", goal=goal)
