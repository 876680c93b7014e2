"""Names of the tensors in Any4D checkpoints.

Official checkpoints hold many tensors twice, and the encoders of geometric inputs that a video has no use for.
"""

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_config import Any4DConfig
from vggrpo.latent_geometry.foundation.model_folder import Architecture
from vggrpo.latent_geometry.foundation.weight_files import WeightLayout

# Encoders of geometric inputs (poses, depths, rays, flow): unused where the input is a video.
DROPPED_SUBMODULES = (
    "cam_rot_encoder",
    "cam_trans_encoder",
    "cam_trans_scale_encoder",
    "depth_encoder",
    "depth_scale_encoder",
    "ray_dirs_encoder",
    "scene_flow_encoder",
)
# Official checkpoints hold these tensors twice, because the same module is registered under two names.
_SEQUENTIAL_ALIASES = (
    ("dense_head.0.", "dpt_feature_head."),
    ("dense_head.1.", "dpt_regressor_head."),
    ("scene_flow_dense_head.0.", "scene_flow_dpt_feature_head."),
    ("scene_flow_dense_head.1.", "scene_flow_dpt_regressor_head."),
)
_PYRAMID_ALIASES = tuple(
    (f"{head}.{alias}", f"{head}.scratch.layer{index + 1}_rn.")
    for head in ("dpt_feature_head", "scene_flow_dpt_feature_head")
    for index in range(4)
    for alias in (f"scratch.layer_rn.{index}.", f"input_process.{index}.1.")
)
ALIASES = (*_SEQUENTIAL_ALIASES, *_PYRAMID_ALIASES)


def canonical_key(key: str) -> str | None:
    """The one name under which this package keeps an official tensor, or None for a dropped submodule."""
    if key.split(".", maxsplit=1)[0] in DROPPED_SUBMODULES:
        return None
    for alias, stored in ALIASES:
        if key.startswith(alias):
            key = stored + key.removeprefix(alias)
    return key


ANY4D = Architecture(
    name="any4d",
    config=Any4DConfig(),
    build=Any4D,
    layout=WeightLayout(title="Any4D", stored_name=canonical_key),
    official_files=("any4d_4v_combined.pth",),
)
