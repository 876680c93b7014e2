"""The symbols of the paper as typed values, and the ONE page of conventions.

Letters used in shapes
    B batch · N frames of video · T frames of latents (N = 4 (T - 1) + 1) · H, W pixels · h, w latent cells · C channels

Conventions
    Axes      OpenCV: x right, y down, z forward. The world frame is the camera of frame 0.
    Matrices  named by both frames, ``camera_from_world`` maps world points to camera points.
    Pixels    centres lie at +0.5: pixel (row i, column j) has image coordinates (j + 0.5, i + 0.5).
    Depth     z-depth, not the distance along the ray.
    Units     those of the geometry model: metres in the procedural world, relative for VGGT.
    Flow      ``scene_flow[i]`` lives on the pixel grid of frame i: the world displacement of the point seen by each
              of frame i's OWN pixels from time i to i + 1 (last frame: from N - 2 to N - 1).
    Latents   ``RawLatents`` are in the VAE's space, ``Latents`` are normalised for diffusion:
              latents = (raw - mean) / std. Two types, so they cannot be mixed.
    Noise     fraction t in [0, 1] with t = 1 pure noise: x_t = (1 - t) x_0 + t x_1; model timestep = 1000 t.
    Video     float in [-1, 1] channels first for models, uint8 [N, H, W, 3] for people.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RawLatents:
    """Latents in the VAE's own space."""

    tensor: Float[Tensor, "B C T h w"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Latents:
    """Latents z normalised for diffusion: (raw - mean) / std per channel."""

    tensor: Float[Tensor, "B C T h w"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneGeometry:
    """Cameras C and K, depth D, points P and scene flow F of a batch of videos, see the module's conventions.

    ``valid`` marks pixels with geometry (not sky); ``flow_valid`` marks pixels whose scene flow is meaningful
    (all False for geometry models without flow). ``confidence`` is >= 1, larger is surer.
    """

    camera_from_world: Float[Tensor, "B N 4 4"]
    intrinsics: Float[Tensor, "B N 3 3"]
    depth: Float[Tensor, "B N H W"]
    points: Float[Tensor, "B N H W 3"]
    scene_flow: Float[Tensor, "B N H W 3"]
    confidence: Float[Tensor, "B N H W"]
    valid: Bool[Tensor, "B N H W"]
    flow_valid: Bool[Tensor, "B N H W"]

    @property
    def num_frames(self) -> int:
        """N."""
        return self.depth.shape[1]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.depth.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "SceneGeometry":
        """Apply ``function`` to every tensor, for example ``lambda t: t.to(device)`` or ``lambda t: t[:1]``."""
        return replace(self, **{f.name: function(getattr(self, f.name)) for f in fields(self)})

    def detach(self) -> "SceneGeometry":
        """The same geometry without its graph."""
        return self.map(torch.Tensor.detach)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardTerm:
    """One reward of a batch of videos; higher is better in ``value`` and ``per_frame`` alike.

    ``value`` is NaN where the video cannot be judged, and ``reasons`` then holds a sentence for that video.
    ``per_frame`` is NaN for frames on which the term is not defined (for example the first and the last one).
    ``error_map`` (>= 0, NaN where not measured) is the per-pixel error where the term has one.
    ``worst_frames`` lists the frames that the reward was computed from, where it looks at the worst ones only.
    """

    name: str
    value: Float[Tensor, " B"]
    per_frame: Float[Tensor, "B N"]
    reasons: tuple[str | None, ...]
    error_map: Float[Tensor, "B N H W"] | None = None
    worst_frames: Int[Tensor, "B K"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGeometry:
    """The exact or estimated geometry of ONE clip as numpy arrays: what ``geometry.npz`` holds.

    Shapes and meanings as in ``SceneGeometry`` without the batch axis; float32 and bool.
    """

    camera_from_world: Float[np.ndarray, "N 4 4"]
    intrinsics: Float[np.ndarray, "N 3 3"]
    depth: Float[np.ndarray, "N H W"]
    points: Float[np.ndarray, "N H W 3"]
    scene_flow: Float[np.ndarray, "N H W 3"]
    confidence: Float[np.ndarray, "N H W"]
    valid: Bool[np.ndarray, "N H W"]

    def to_scene(self, flow_valid: Bool[np.ndarray, "N H W"] | None = None) -> SceneGeometry:
        """The same geometry as torch tensors with a batch axis of one (flow is taken as meaningful where valid)."""
        tensors = {f.name: torch.from_numpy(np.ascontiguousarray(getattr(self, f.name)))[None] for f in fields(self)}
        flow = tensors["valid"] if flow_valid is None else torch.from_numpy(flow_valid)[None]
        return SceneGeometry(**tensors, flow_valid=flow)

    @classmethod
    def from_scene(cls, scene: SceneGeometry, index: int = 0) -> "ClipGeometry":
        """Video ``index`` of a batch, on the CPU, in float32."""

        def to_numpy(tensor: Tensor) -> np.ndarray:
            array = tensor[index].detach().cpu()
            return array.numpy() if array.dtype == torch.bool else array.float().numpy()

        return cls(**{f.name: to_numpy(getattr(scene, f.name)) for f in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldClip:
    """A clip with exact ground truth: ``rgb``, its ``caption`` and its ``geometry`` (world = camera of frame 0).

    ``object_id`` is 0 for sky, 1 for the ground, 2… for objects; ``moving`` marks pixels of moving objects.
    """

    rgb: UInt8[np.ndarray, "N H W 3"]
    caption: str
    geometry: ClipGeometry
    object_id: UInt8[np.ndarray, "N H W"]
    moving: Bool[np.ndarray, "N H W"]
