"""FIGURE (b), middle: rewards that read world consistency off cameras, depth, points and scene flow."""

from vggrpo.rewards.added import add_reward, load_reward_file, reward_names
from vggrpo.rewards.geometry_consistency import geometry_consistency
from vggrpo.rewards.guards import Guards, camera_path_length, dynamic_degree, measure_guards, moving_share
from vggrpo.rewards.motion_smoothness import motion_smoothness
from vggrpo.rewards.report import RewardReport, judge
from vggrpo.rewards.scene_smoothness import scene_smoothness
from vggrpo.rewards.settings import GeometrySettings, MotionSettings, RewardSettings, SceneSettings
from vggrpo.types import SceneGeometry

__all__ = [
    "GeometrySettings",
    "Guards",
    "MotionSettings",
    "RewardReport",
    "RewardSettings",
    "SceneGeometry",
    "SceneSettings",
    "add_reward",
    "camera_path_length",
    "dynamic_degree",
    "geometry_consistency",
    "judge",
    "load_reward_file",
    "measure_guards",
    "motion_smoothness",
    "moving_share",
    "reward_names",
    "scene_smoothness",
]
