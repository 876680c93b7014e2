"""The procedural 4D world: textured primitives on patterned ground under a moving camera, with exact ground truth.

It is training data for the embedded models, and the oracle that the geometry models and rewards are tested against.
Nothing is read from disk: a clip is a function of its seed. The renderer is imported by the first clip, so that
``worlds.vocabulary`` costs the page neither torch nor open3d.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggrpo.types import WorldClip
    from vggrpo.worlds.rendering import render_clip
    from vggrpo.worlds.scenes import SceneSpec, sample_scene

__all__ = ["FIRST_TRAINING_SEED", "SceneSpec", "make_clip", "render_clip", "sample_scene"]

FIRST_TRAINING_SEED = 1_000_000
"""Training draws seeds from here on; every seed below it is held out."""


def make_clip(
    seed: int,
    *,
    num_frames: int = 17,
    height: int = 128,
    width: int = 128,
    jitter: bool | None = None,
) -> "WorldClip":
    """The clip of a seed: sampled scene, rendered frames, exact geometry."""
    from vggrpo.worlds.rendering import render_clip
    from vggrpo.worlds.scenes import sample_scene

    return render_clip(sample_scene(seed, jitter=jitter), num_frames=num_frames, height=height, width=width)


def __getattr__(name: str) -> Any:
    """Names of the renderer and the sampler, on first use."""
    if name == "render_clip":
        from vggrpo.worlds.rendering import render_clip

        return render_clip
    if name in {"SceneSpec", "sample_scene"}:
        from vggrpo.worlds import scenes

        return getattr(scenes, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
