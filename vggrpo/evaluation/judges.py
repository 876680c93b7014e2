"""Every judge that no training saw, by name: what each measures, and one call that asks them all.

They read frames, never latents, and share nothing with the rewards: another geometry model (``independent_geometry``),
OpenCV's features and flow, a network that counts objects. Where a judge cannot judge, its finding has a reason and no
number.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vggrpo.evaluation.camera_moves import classify_camera_moves, scene_depth_of
from vggrpo.evaluation.dynamic_degree import moving_share
from vggrpo.evaluation.epipolar import sampson_error
from vggrpo.evaluation.frechet import encoder_features
from vggrpo.evaluation.independent_geometry import GeometryReading, geometry_images, read_geometry
from vggrpo.evaluation.object_judge import find_objects
from vggrpo.evaluation.prompt_claims import PromptClaims, read_claims
from vggrpo.evaluation.reprojection import reprojection_error
from vggrpo.evaluation.sharpness import sharpness
from vggrpo.evaluation.subjects import FrameReader, ObjectCounter
from vggrpo.evaluation.trajectory_roughness import TrajectoryRoughness, trajectory_roughness
from vggrpo.latents import frames_from_video
from vggrpo.rewards import motion_smoothness
from vggrpo.rewards.guards import camera_path_length
from vggrpo.runtime.errors import UserError
from vggrpo.types import SceneGeometry

Need = Literal["frames", "geometry", "objects"]
Better = Literal["lower", "higher", "guard"]
LEAST_COMPARED = 0.1
"""Share of the pixels that the reprojection error must compare: a wild geometry compares little."""
NO_OBJECT_JUDGE = "there is no judge of objects: make one with `python -m vggrpo pretrain judge`"
NO_OBJECTS = "the prompt names no object of the world"
NO_MOVE = "the prompt names no camera move, or more than one"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What a number means. ``better`` "guard": neither way is a gain, it is to stay as it was. ``needs``: what reads
    it: the frames alone, the independent geometry model, or the judge of objects."""

    name: str
    title: str
    unit: str
    better: Better
    needs: Need
    about: str


MEASURES: tuple[Measure, ...] = (
    Measure(
        name="sampson",
        title="Sampson epipolar error",
        unit="px",
        better="lower",
        needs="frames",
        about="How far matched SIFT features miss one rigid camera motion from frame to frame; no model is asked.",
    ),
    Measure(
        name="reprojection",
        title="reprojection error",
        unit="",
        better="lower",
        needs="geometry",
        about="Colour difference (0 to 1) where independent depth and fitted cameras carry each frame to the next.",
    ),
    Measure(
        name="smoothness",
        title="camera smoothness",
        unit="",
        better="higher",
        needs="geometry",
        about="1 / (1 + acceleration over speed) of the fitted cameras: free of scale, not better for a slower camera.",
    ),
    Measure(
        name="roughness_travel",
        title="camera acceleration",
        unit="depths/frame²",
        better="lower",
        needs="geometry",
        about="Root mean square acceleration of the fitted cameras' place, in scene depths.",
    ),
    Measure(
        name="roughness_turn",
        title="camera turning acceleration",
        unit="°/frame²",
        better="lower",
        needs="geometry",
        about="Root mean square change of the fitted cameras' turn from frame to frame.",
    ),
    Measure(
        name="path_length",
        title="camera path",
        unit="",
        better="guard",
        needs="geometry",
        about="Length of the fitted cameras' path in scene scales, by chords over which jitter averages out.",
    ),
    Measure(
        name="dynamic_degree",
        title="moving pixels",
        unit="%",
        better="guard",
        needs="geometry",
        about="Share of the pixels that move by themselves, the camera's motion taken out.",
    ),
    Measure(
        name="camera_prompt",
        title="camera move of the prompt",
        unit="%",
        better="higher",
        needs="geometry",
        about="Whether the fitted cameras make the move that the prompt names.",
    ),
    Measure(
        name="object_prompt",
        title="objects of the prompt",
        unit="%",
        better="higher",
        needs="objects",
        about="Share of the named objects that are seen in their colour and shape.",
    ),
    Measure(
        name="sharpness",
        title="sharpness",
        unit="",
        better="guard",
        needs="frames",
        about="Standard deviation of the Laplacian of luma: a blurred video is easy to keep consistent.",
    ),
)
"""One number a video each, in the order of tables. Shares are told as fractions; ``unit`` "%" says how to show them."""
FRECHET = Measure(
    name="frechet",
    title="Fréchet distance to true clips",
    unit="",
    better="lower",
    needs="geometry",
    about="Of the independent model's encoder features: one number a set of videos, not one a video.",
)


def measure_named(name: str) -> Measure:
    """The measure of a name. Raises a UserError that suggests the nearest one."""
    known = {measure.name: measure for measure in (*MEASURES, FRECHET)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}."
    raise UserError(f"There is no measure {name!r}: {hint}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one judge says of one video: a number, or NaN with the ``reason`` why there is none.

    ``details`` are numbers to read beside it, such as how much of the video was compared.
    """

    value: float
    reason: str | None = None
    details: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold numbers and reasons apart."""
        if math.isfinite(self.value) == (self.reason is not None):
            raise ValueError(f"a finding has either a number or a reason, not {self.value} and {self.reason!r}")

    def to_json(self) -> dict[str, object]:
        """For a file: null for what is no number."""
        entry: dict[str, object] = {"value": self.value if math.isfinite(self.value) else None}
        if self.reason is not None:
            entry["reason"] = self.reason
        if self.details:
            entry["details"] = {name: one if math.isfinite(one) else None for name, one in self.details.items()}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, object]) -> "Finding":
        """Back from a file. Raises a ValueError for what ``to_json`` never writes."""
        value, reason, details = entry.get("value"), entry.get("reason"), entry.get("details", {})
        if not (value is None or isinstance(value, int | float)) or not isinstance(details, Mapping):
            raise ValueError(f"no finding: {entry}")
        return cls(
            value=math.nan if value is None else float(value),
            reason=None if reason is None else str(reason),
            details={name: math.nan if one is None else float(one) for name, one in details.items()},
        )


def not_judged(reason: str, **details: float) -> Finding:
    """No number, and why."""
    return Finding(value=math.nan, reason=reason, details=details)


@dataclass(frozen=True, kw_only=True)
class ClipJudges:
    """All judges, ready to be asked. ``objects`` is None where no judge of objects is at hand."""

    geometry: FrameReader
    """The independent Φ, on ``device``."""
    objects: ObjectCounter | None
    """On the CPU."""
    device: torch.device

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What ``judge`` tells of every video."""
        return MEASURES

    @torch.no_grad()
    def judge(self, video: Float[Tensor, "B 3 N H W"], *, prompts: Sequence[str]) -> dict[str, list[Finding]]:
        """Every measure of videos in [-1, 1], by its name: one finding a video, in their order.

        Raises a ValueError unless there is one prompt a video.
        """
        if len(prompts) != len(video):
            raise ValueError(f"{len(video)} videos and {len(prompts)} prompts do not belong together")
        each = [self._judge_one(video[index : index + 1], prompt) for index, prompt in enumerate(prompts)]
        return {measure.name: [findings[measure.name] for findings in each] for measure in MEASURES}

    @torch.no_grad()
    def features(self, video: Float[Tensor, "B 3 N H W"]) -> Float[np.ndarray, "B N C"]:
        """The independent model's image features of every frame, for the Fréchet distance."""
        images = geometry_images(self.geometry, video.to(self.device))
        return encoder_features(self.geometry, images).reshape(*images.shape[:2], -1)

    def _judge_one(self, video: Float[Tensor, "1 3 N H W"], prompt: str) -> dict[str, Finding]:
        frames = frames_from_video(video)[0].cpu().numpy()
        claims = read_claims(prompt)
        reading = read_geometry(self.geometry, video.to(self.device))
        return {
            "sampson": _sampson(frames),
            "object_prompt": self._objects_of(frames, claims=claims),
            "sharpness": Finding(value=float(sharpness(frames).mean())),
            **_by_geometry(reading, claims=claims),
        }

    def _objects_of(self, frames: UInt8[np.ndarray, "N H W 3"], *, claims: PromptClaims) -> Finding:
        if self.objects is None:
            return not_judged(NO_OBJECT_JUDGE)
        if not claims.objects:
            return not_judged(NO_OBJECTS)
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255.0
        pixels = self.objects.visible_pixels(images).float().cpu()
        sightings = find_objects(pixels, named=claims.objects, frame_pixels=frames.shape[1] * frames.shape[2])
        colours = sum(sighting.colour for sighting in sightings) / len(sightings)
        return Finding(
            value=sum(sighting.whole for sighting in sightings) / len(sightings),
            details={"colours": colours, "named": float(len(sightings))},
        )


def _sampson(frames: UInt8[np.ndarray, "N H W 3"]) -> Finding:
    found = sampson_error(frames)
    details = {"pairs": float(len(found.per_pair)), "failed_pairs": float(found.failures), "matches": found.matches}
    return Finding(value=found.value, reason=found.reason, details=details)


def _by_geometry(reading: GeometryReading, *, claims: PromptClaims) -> dict[str, Finding]:
    """Everything that depth and fitted cameras tell, or the reason why there are none."""
    judges: dict[str, Callable[[SceneGeometry], Finding]] = {
        "reprojection": lambda scene: _reprojection(reading, scene=scene),
        "smoothness": _smoothness,
        "roughness_travel": lambda scene: Finding(value=float(_roughness(scene).travel)),
        "roughness_turn": lambda scene: Finding(value=float(_roughness(scene).turn)),
        "path_length": lambda scene: _path(scene, explained=reading.explained),
        "dynamic_degree": lambda scene: _dynamic_degree(reading, scene=scene),
        "camera_prompt": lambda scene: _camera_move(scene, claims=claims),
    }
    if reading.scene is None:
        reason = reading.reason or "the independent geometry model could not read the video"
        return {name: not_judged(reason) for name in judges}
    scene = reading.scene
    return {name: judge(scene) for name, judge in judges.items()}


def _reprojection(reading: GeometryReading, *, scene: SceneGeometry) -> Finding:
    video = torch.from_numpy(reading.frames).permute(3, 0, 1, 2)[None].float() / 255.0
    found = reprojection_error(video, scene=scene)
    value, compared = float(found.value), float(found.compared)
    if not math.isfinite(value) or compared < LEAST_COMPARED:
        return not_judged(f"fewer than {LEAST_COMPARED:.0%} of the pixels could be compared", compared=compared)
    return Finding(value=value, details={"compared": compared})


def _smoothness(scene: SceneGeometry) -> Finding:
    found = motion_smoothness(scene)
    return Finding(value=float(found.value[0]), reason=found.reasons[0])


def _roughness(scene: SceneGeometry) -> TrajectoryRoughness:
    return trajectory_roughness(scene.camera_from_world, scene_depth=scene_depth_of(scene))


def _path(scene: SceneGeometry, *, explained: float) -> Finding:
    """The guard that training has, on the independent cameras; with every sway counted beside it."""
    length = float(camera_path_length(scene)[0])
    if not math.isfinite(length):
        return not_judged("the scale of the scene is unknown")
    return Finding(value=length, details={"with_jitter": float(_roughness(scene).path), "explained": explained})


def _dynamic_degree(reading: GeometryReading, *, scene: SceneGeometry) -> Finding:
    if reading.flow is None:
        return not_judged("there is no optical flow")
    found = moving_share(reading.frames, scene=scene, flow=reading.flow)
    if not math.isfinite(found.value):
        return not_judged("no pixel could be followed")
    return Finding(value=found.value, details={"speed": found.speed})


def _camera_move(scene: SceneGeometry, *, claims: PromptClaims) -> Finding:
    if claims.camera_move is None:
        return not_judged(NO_MOVE)
    seen = classify_camera_moves(scene.camera_from_world, scene_depth=scene_depth_of(scene))[0]
    return Finding(value=float(seen == claims.camera_move))
