"""The size of a scene: the unit in which every error and every threshold of the rewards is expressed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def scene_scale(depth: Float[Tensor, "B N H W"], *, valid: Bool[Tensor, "B N H W"]) -> Float[Tensor, " B"]:
    """Geometric mean of the valid z-depths of all frames: exp(mean(log D)); NaN for a video without valid pixels.

    It is unmoved by a rigid motion of the world and grows in proportion with the scene, so an error divided by it is
    free of units. A far horizon moves the geometric mean as little as it moves a median, and unlike a median it is
    smooth: a reward divided by it keeps an exact gradient, which cannot be raised by growing or shrinking the scene.
    """
    usable = valid & (depth > 0) & depth.isfinite()
    log_depth = torch.where(usable, depth, 1.0).log()
    count = usable.sum(dim=(1, 2, 3))
    mean = log_depth.sum(dim=(1, 2, 3)) / count.clamp(min=1)
    return torch.where(count > 0, mean.exp(), torch.nan)
