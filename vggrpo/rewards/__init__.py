"""FIGURE (b), middle: rewards that read world consistency off cameras, depth, points and scene flow."""

from vggrpo.rewards.geometry_consistency import geometry_consistency
from vggrpo.rewards.guards import Guards, camera_path_length, dynamic_degree, measure_guards, moving_share
from vggrpo.rewards.motion_smoothness import motion_smoothness
from vggrpo.rewards.report import RewardReport, judge
from vggrpo.rewards.scene_smoothness import scene_smoothness
from vggrpo.rewards.settings import GeometrySettings, MotionSettings, RewardSettings, SceneSettings

__all__ = [
    "GeometrySettings",
    "Guards",
    "MotionSettings",
    "RewardReport",
    "RewardSettings",
    "SceneSettings",
    "camera_path_length",
    "dynamic_degree",
    "geometry_consistency",
    "judge",
    "measure_guards",
    "motion_smoothness",
    "moving_share",
    "scene_smoothness",
]
