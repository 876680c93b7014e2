"""Every choice of the rewards that the paper leaves open, as named, documented settings.

Lengths are fractions of the scene scale (``vggrpo.geometry.scene_scale``), so none of them depends on the unit of the
geometry model.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionSettings:
    """Camera motion smoothness."""

    still_step: float = 1e-3
    """Added to the speeds in the denominator: camera steps well below this fraction of the scene scale count as
    standing still, so the jitter of an estimated but still camera is not blown up by 0 / 0."""

    still_angle: float = 1e-3
    """The same for rotation, in radians a frame (0.06 degrees)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometrySettings:
    """Reprojection consistency of the static scene."""

    static_threshold: float = 0.01
    """tau: a point is static if its flow is below this fraction of the scene scale a frame. The paper does not say;
    public code of the same family uses 0.02 to 0.1. Ours is lower: at 8 frames a second the slowest mover of the
    procedural world goes 0.02 a frame, and half of that keeps a learned flow's noise static and movers moving."""

    num_worst: int = 3
    """The reward is the mean error of this many worst views."""

    min_coverage: float = 0.05
    """A view is judged only if at least this share of its pixels can be compared."""

    min_view_share: float = 0.5
    """A video is judged only if at least this share of its views, and at least ``num_worst``, are."""

    seen_through_margin: float = 0.03
    """A point is refuted if another view sees a surface more than this fraction of its depth behind it."""

    hidden_margin: float = 0.1
    """A point more than this fraction of depth behind a view's own surface is hidden by that surface, unless other
    views refute the surface: then it is an error and counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSettings:
    """Temporal continuity of the scene's structure."""

    static_threshold: float = 0.01
    """tau as in ``GeometrySettings``; also the speed below which a scene point counts as standing: it is added to the
    denominator, so the noise of a standing point is measured against tau and not against itself."""

    stride: int = 2
    """Tracks start on every ``stride``-th pixel of both image axes."""

    follow_margin: float = 0.1
    """A track continues on the next frame's surface if that lies within this fraction of the predicted depth."""

    min_coverage: float = 0.05
    """A frame is judged only if at least this share of the tracks around it can be followed or is found lost."""

    min_frame_share: float = 0.5
    """A video is judged only if at least this share of its inner frames is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardSettings:
    """All rewards."""

    motion: MotionSettings = field(default_factory=MotionSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    scene: SceneSettings = field(default_factory=SceneSettings)


# One instance of each: defaults of the reward functions.
DEFAULT_MOTION = MotionSettings()
DEFAULT_GEOMETRY = GeometrySettings()
DEFAULT_SCENE = SceneSettings()
DEFAULT_REWARDS = RewardSettings()
