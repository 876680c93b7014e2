"""Training defaults by preset: the ONE table of what differs from the paper's settings, and why.

Names only: what a preset is, this layer does not know. A preset without a row trains with the paper's settings.
"""

from collections.abc import Mapping
from types import MappingProxyType

from vggrpo.grpo.config import GrpoConfig, RewardWeights

# A group of 8 is the smallest with a steady mean (reference flow_grpo.md 6.1). Rollouts are not guided: half the time a
# video, and rewards as high as with guidance. 40 iterations draw 1280 videos, fewer than three iterations of the paper:
# the gradient has to be worth more a video. So one noisy step from one initial noise (all that differs in a group is
# what is trained), drawn in opposite pairs, and scored on the lowest 4 x 4 of 16 x 16 frequencies, where the spread of
# the rewards comes from: `grad_agreement` in metrics.jsonl and `evaluate gradients` tell what there is to learn from.
# No gradient checkpointing: the activations of 8 clips fit.
_TINY: Mapping[str, object] = MappingProxyType(
    {
        "group_size": 8,
        "groups": 4,
        "guidance": 1.0,
        "transition": "flow_sde",
        "window_size": 1,
        "window_end": 2,
        "same_noise": True,
        "mirrored_noise": True,
        "scored_cells": 4,
        "learning_rate": 5e-4,
        "gradient_checkpointing": False,
        "guard_clips": 2,
        "evaluate_every": 10,
        "evaluation_clips": 8,
        "evaluation_steps": 20,
        "evaluation_guidance": 2.0,
        "sample_every": 10,
        "samples": 2,
    }
)
# For tests, where an iteration must take a fraction of a second. Random geometry is never consistent enough to be
# measured, so that reward has no weight here.
_TINY_DEBUG: Mapping[str, object] = MappingProxyType(
    {
        **_TINY,
        "group_size": 4,
        "groups": 2,
        "guidance": 4.0,
        "steps": 4,
        "window_size": 2,
        "window_end": 3,
        "micro_batch": 4,
        "evaluation_clips": 2,
        "evaluation_steps": 2,
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "training_captions": 16,
        "weights": RewardWeights(geometry_consistency=0.0, scene_smoothness=1.0),
        "checkpoint_every": 1,
        "refresh_steps": 2,
        "refresh_clips": 2,
    }
)
# Reference flow_grpo.md 5.3: many groups of few members, 20 steps of which the first half may be noisy. The size is the
# one that a 24 GB card trains at (see `plan`): 33 frames keep a camera move, the full 81 take some ten times as long.
_RELEASED: Mapping[str, object] = MappingProxyType(
    {
        "group_size": 8,
        "groups": 16,
        "steps": 20,
        "window_end": 10,
        "frames": 33,
        "evaluate_every": 10,
        "samples": 2,
        # Beyond a few videos at once a GPU gets no faster, and their dense geometry is large.
        "reward_batch": 2,
    }
)
_WAN21: Mapping[str, object] = MappingProxyType({**_RELEASED, "height": 240, "width": 416, "micro_batch": 8})
# It falls apart below its own resolution, and its authors shift its noise grid further.
_WAN22: Mapping[str, object] = MappingProxyType({**_RELEASED, "flow_shift": 5.0, "micro_batch": 1, "reward_batch": 1})
TRAINING_DEFAULTS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"tiny": _TINY, "tiny-debug": _TINY_DEBUG, "wan2.1-t2v-1.3b": _WAN21, "wan2.2-ti2v-5b": _WAN22}
)
"""Settings that differ from ``GrpoConfig``'s own, by preset."""


def training_defaults(preset: str) -> GrpoConfig:
    """The settings that a preset trains with unless told otherwise."""
    row: Mapping[str, object] = TRAINING_DEFAULTS.get(preset, {})
    return GrpoConfig(preset=preset, **row)  # type: ignore[arg-type]  # a table of mixed types
