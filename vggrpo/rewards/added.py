"""Rewards of one's own: a file with one decorated function, named on the command line.

    from torch import Tensor
    from vggrpo.rewards import SceneGeometry, add_reward

    @add_reward
    def level_horizon(scene: SceneGeometry) -> Tensor:      # [B, N]: higher is better, NaN where it cannot judge
        return 1.0 - scene.camera_from_world[..., 1, 0].abs()

The reward of a video is the mean over the frames that can be judged. From then on it is computed, written, logged and
plotted like the built-in ones, and trained on where it is given a weight. The file is Python and runs with the user's
rights; so it comes from a command line and never from a web page.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.rewards.measurable import blank_where, common_reasons, unjudged_term
from vggrpo.runtime.errors import UserError
from vggrpo.types import RewardTerm, SceneGeometry

BUILT_IN = ("motion_smoothness", "geometry_consistency", "scene_smoothness")
"""Rewards that are always there; higher is better."""

FrameScore = Callable[[SceneGeometry], Float[Tensor, "B N"]]
"""A score of every frame of a batch of videos, NaN where a frame cannot be judged."""

_added: dict[str, FrameScore] = {}


def add_reward(function: FrameScore) -> FrameScore:
    """Make a function of the scene a reward under the function's own name. Raises a UserError for a taken name."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier() or name in BUILT_IN or name == "guards":
        raise UserError(f"A reward cannot be called {name!r}: give its function another name.")
    if name in _added and _added[name] is not function:
        raise UserError(f"There are two rewards called {name!r}: give one of the functions another name.")
    _added[name] = function
    return function


def added_rewards() -> Mapping[str, FrameScore]:
    """The rewards that were added to this process, by name."""
    return MappingProxyType(_added)


def reward_names() -> tuple[str, ...]:
    """Every reward of this process: the built-in ones, then the added ones."""
    return (*BUILT_IN, *_added)


def load_reward_file(path: Path) -> None:
    """Run a Python file that calls ``add_reward``, once. Raises a UserError if it cannot be run, or adds none."""
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{path} is no Python file: give a file with a function under @add_reward.")
    module_name = f"vggrpo_reward_{path.resolve()}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = dict(_added)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
        if len(_added) == len(before):
            raise UserError(f"{path} adds no reward: put @add_reward above its function.")
    except Exception as error:
        # A stranger's file may raise anything. What it added before that must not stay.
        _added.clear()
        _added.update(before)
        del sys.modules[module_name]
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be run ({type(error).__name__}: {error}).") from error


def added_term(name: str, scene: SceneGeometry) -> RewardTerm:
    """An added reward of a batch of videos. Raises a UserError if its function gives no number for every frame."""
    reasons = common_reasons(scene)
    if all(reason is not None for reason in reasons):
        return unjudged_term(name, scene=scene, reasons=reasons)
    per_frame = _added[name](scene)
    expected = (scene.batch_size, scene.num_frames)
    if not isinstance(per_frame, Tensor) or tuple(per_frame.shape) != expected:
        given = tuple(per_frame.shape) if isinstance(per_frame, Tensor) else type(per_frame).__name__
        raise UserError(f"The reward {name!r} must give a tensor of shape {expected}, videos by frames, not {given}.")
    per_frame = torch.where(per_frame.isfinite(), per_frame, torch.nan).to(scene.depth.dtype)
    value = per_frame.nanmean(dim=1)
    sentence = f"{name} could judge no frame"
    unjudged = value.isnan().tolist()
    reasons = [sentence if reason is None and none else reason for reason, none in zip(reasons, unjudged, strict=True)]
    return RewardTerm(
        name=name,
        value=blank_where(reasons, values=value),
        per_frame=blank_where(reasons, values=per_frame),
        reasons=tuple(reasons),
    )
