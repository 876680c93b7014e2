"""Any4D's output as the project's ``SceneGeometry``; differentiable throughout.

Converted here, and nowhere else: world-from-camera poses → camera-from-world; a *predicted* first camera → the world
frame exactly; distance along the ray → z-depth; rays → intrinsics; flow on view 0's pixels → flow on own pixels.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vggrpo.geometry.projection import pixel_grid, rigid_inverse, rigid_matrix
from vggrpo.geometry.so3 import matrix_from_quaternion
from vggrpo.latent_geometry.foundation.any4d_output import Any4DOutput
from vggrpo.latent_geometry.foundation.base import DecodedFrames
from vggrpo.latent_geometry.foundation.stitchable import PIXELS_AT_ONCE
from vggrpo.types import SceneGeometry

# A point of view 0 lands on view i's surface if its depth there agrees to this share; otherwise it is hidden.
SURFACE_TOLERANCE = 0.05
MIN_DEPTH = 1e-6
SHORTEST_FOCAL = 0.05
"""In image widths: a field of view of 169 degrees."""


def to_scene_geometry(output: Any4DOutput) -> SceneGeometry:
    """Convert; the world frame is frame 0's predicted camera, so ``camera_from_world[:, 0]`` is exactly the identity.

    Pixels whose z-depth is not positive are marked invalid. Flow on the reference grid is carried to own pixels where
    a point of view 0 is seen again; ``flow_valid`` is False everywhere else.
    """
    scene = to_decoded_frames(output, frames=None).scene
    if output.flow_grid == "self":
        return scene
    every = torch.arange(scene.num_frames, device=scene.depth.device)
    return with_own_flow(scene, reference=scene, steps=FlowSteps.of(every, count=scene.num_frames))


def to_decoded_frames(output: Any4DOutput, *, frames: Int[Tensor, " M"] | None) -> DecodedFrames:
    """Convert an output with dense parts for ``frames`` only (None: all). Flow stays on the grid that it is on."""
    world_from_camera = anchored_poses(output.cam_quats, output.cam_trans)
    own = world_from_camera if frames is None else world_from_camera.index_select(1, frames)
    rotation, centre = own[..., :3, :3], own[..., :3, 3]
    points = torch.einsum("bnij,bnhwj->bnhwi", rotation, output.pts3d_cam) + centre[:, :, None, None]
    depth = output.pts3d_cam[..., 2]
    valid = output.non_ambiguous_mask & (depth > MIN_DEPTH)
    anchor = matrix_from_quaternion(output.cam_quats[:, 0])
    scene = SceneGeometry(
        camera_from_world=rigid_inverse(own),
        intrinsics=intrinsics_from_rays(output.ray_directions),
        depth=depth,
        points=points,
        scene_flow=torch.einsum("bji,bnhwj->bnhwi", anchor, output.scene_flow),
        confidence=output.conf,
        valid=valid,
        flow_valid=valid,
    )
    return DecodedFrames(camera_from_world=rigid_inverse(world_from_camera), scene=scene)


def anchored_poses(quaternion: Float[Tensor, "B N 4"], translation: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N 4 4"]:
    """World-from-camera matrices in the frame of camera 0: T_0⁻¹ T_i, with exactly the identity for i = 0."""
    rotation = matrix_from_quaternion(quaternion)
    back = rotation[:, :1].transpose(-1, -2)
    relative_rotation = back @ rotation[:, 1:]
    relative_centre = (back @ (translation[:, 1:] - translation[:, :1])[..., None])[..., 0]
    first = torch.eye(4, dtype=rotation.dtype, device=rotation.device).expand(rotation.shape[0], 1, 4, 4)
    return torch.cat([first, rigid_matrix(relative_rotation, relative_centre)], dim=1)


def intrinsics_from_rays(rays: Float[Tensor, "B N H W 3"]) -> Float[Tensor, "B N 3 3"]:
    """Pinhole K in pixels that explains the rays of the pixel centres best, without skew.

    Least squares of f_x x + c_x z = u z (and y, v alike) over all pixels: linear, no division by a small z, and exact
    for the rays of a pinhole camera. Rays behind the camera (z <= 0) have no pixel and get no weight. Rays that no
    camera has (all alike or mirrored: an untrained model) get a centred camera as long as the image is wide.
    """
    frames = rays.flatten(0, 1)
    at_once = max(1, PIXELS_AT_ONCE // (rays.shape[2] * rays.shape[3]))
    fitted = torch.cat([_fit_cameras(part) for part in frames.split(at_once)])
    return fitted.unflatten(0, rays.shape[:2])


def _fit_cameras(rays: Float[Tensor, "frames H W 3"]) -> Float[Tensor, "frames 3 3"]:
    height, width = rays.shape[-3:-1]
    precise = rays.double()
    pixels = pixel_grid(height, width, like=precise)
    front = (precise[..., 2] > MIN_DEPTH).double()
    z = precise[..., 2] * front
    focal_x, centre_x = _fit_axis(precise[..., 0] * front, z, pixels[..., 0])
    focal_y, centre_y = _fit_axis(precise[..., 1] * front, z, pixels[..., 1])
    zero, one = torch.zeros_like(focal_x), torch.ones_like(focal_x)
    is_camera = torch.minimum(focal_x, focal_y) > SHORTEST_FOCAL * width
    focal_x, focal_y = (torch.where(is_camera, focal, float(width)) for focal in (focal_x, focal_y))
    centre_x = torch.where(is_camera, centre_x, 0.5 * width)
    centre_y = torch.where(is_camera, centre_y, 0.5 * height)
    entries = (focal_x, zero, centre_x, zero, focal_y, centre_y, zero, zero, one)
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3)).to(rays.dtype)


def _fit_axis(
    x: Float[Tensor, "frames H W"], z: Float[Tensor, "frames H W"], pixel: Float[Tensor, "H W"]
) -> tuple[Tensor, Tensor]:
    """Focal length and principal point of one image axis by the 2 × 2 normal equations."""
    target = pixel * z
    xx, xz, zz = (product.sum(dim=(-2, -1)) for product in (x * x, x * z, z * z))
    xt, zt = (product.sum(dim=(-2, -1)) for product in (x * target, z * target))
    determinant = xx * zz - xz * xz
    # All rays alike (an untrained model) leave the focal length open; a floor keeps the result finite.
    determinant = determinant.clamp_min(1e-12)
    return (zz * xt - xz * zt) / determinant, (xx * zt - xz * xt) / determinant


@dataclass(frozen=True, kw_only=True)
class FlowSteps:
    """For M frames, positions among those at hand: of the frame, and of the two whose flows its step lies between.

    A frame's own step is to the next frame; the last frame's is the one before it.
    """

    own: Int[Tensor, " M"]
    earlier: Int[Tensor, " M"]
    later: Int[Tensor, " M"]

    @classmethod
    def of(cls, frames: Int[Tensor, " M"], *, count: int) -> "FlowSteps":
        """Steps of ``frames`` of a video of ``count`` frames, all of them at hand."""
        later = (frames + 1).clamp_max(count - 1)
        return cls(own=frames, earlier=(later - 1).clamp_min(0), later=later)

    def needed(self) -> Int[Tensor, " K"]:
        """The frames whose dense outputs the steps take, sorted: view 0 (whose points are followed) and those named."""
        return torch.cat([self.own.new_zeros(1), self.own, self.earlier, self.later]).unique()

    def among(self, frames: Int[Tensor, " K"]) -> "FlowSteps":
        """The same steps when only ``frames`` (sorted) are at hand."""
        own, earlier, later = (torch.searchsorted(frames, one) for one in (self.own, self.earlier, self.later))
        return FlowSteps(own=own, earlier=earlier, later=later)

    def split(self, count: int) -> "tuple[FlowSteps, ...]":
        """The same steps, ``count`` at a time."""
        parts = zip(self.own.split(count), self.earlier.split(count), self.later.split(count), strict=True)
        return tuple(FlowSteps(own=own, earlier=earlier, later=later) for own, earlier, later in parts)


def with_own_flow(chosen: SceneGeometry, *, reference: SceneGeometry, steps: FlowSteps) -> SceneGeometry:
    """The frames ``chosen`` (those of ``steps.own``) with their flow on their own pixels.

    ``reference`` holds the frames that the steps need, view 0 first, with flow on view 0's pixels towards each view's
    time. A few frames are worked on at once: every one needs several maps of its own.
    """
    batch, _, height, width = reference.depth.shape
    parts = steps.split(max(1, PIXELS_AT_ONCE // (batch * height * width)))
    carried = [_carry_flow(reference, steps=part) for part in parts]
    reached = torch.cat([part.reached for part in carried], dim=1)
    flow = torch.cat([part.flow for part in carried], dim=1)
    return replace(chosen, scene_flow=flow, flow_valid=reached & chosen.valid)


@dataclass(frozen=True, kw_only=True)
class _CarriedFlow:
    flow: Float[Tensor, "B M H W 3"]
    reached: Bool[Tensor, "B M H W"]


def _carry_flow(geometry: SceneGeometry, *, steps: FlowSteps) -> _CarriedFlow:
    """Flow of own pixels (towards the next frame), and where there is one.

    Point p of view 0 is at X_i = P_0(p) + F_i(p) at time i and moves by F_{i+1}(p) - F_i(p) from there. It is carried
    to the pixel of view i that sees X_i; pixels that see no point of view 0 keep zero flow and are not reached.
    """
    reference = geometry.scene_flow
    own_flow, own_depth = reference.index_select(1, steps.own), geometry.depth.index_select(1, steps.own)
    if geometry.num_frames == 1:
        return _CarriedFlow(flow=torch.zeros_like(own_flow), reached=torch.zeros_like(own_depth, dtype=torch.bool))
    moved = reference.index_select(1, steps.later) - reference.index_select(1, steps.earlier)
    positions = geometry.points[:, :1] + own_flow
    camera = geometry.camera_from_world.index_select(1, steps.own)
    seen = torch.einsum("bnij,bnhwj->bnhwi", camera[..., :3, :3], positions) + camera[:, :, None, None, :3, 3]
    pixel = torch.einsum("bnij,bnhwj->bnhwi", geometry.intrinsics.index_select(1, steps.own), seen)
    depth = seen[..., 2]
    flat = _pixel_index(pixel, depth)
    inside = flat >= 0
    index = flat.clamp_min(0).flatten(2)
    surface = own_depth.flatten(2).gather(2, index).unflatten(2, depth.shape[2:])
    on_surface = inside & geometry.valid[:, :1] & ((depth - surface).abs() < SURFACE_TOLERANCE * depth.abs())
    weight = on_surface.to(moved.dtype).flatten(2)
    total = torch.zeros_like(moved).flatten(2, 3)
    total = total.scatter_add(2, index[..., None].expand_as(total), moved.flatten(2, 3) * weight[..., None])
    count = torch.zeros_like(weight).scatter_add(2, index, weight)
    mean = (total / count.clamp_min(1)[..., None]).unflatten(2, depth.shape[2:])
    return _CarriedFlow(flow=mean, reached=(count > 0).unflatten(2, depth.shape[2:]))


def _pixel_index(pixel: Float[Tensor, "B N H W 3"], depth: Float[Tensor, "B N H W"]) -> Tensor:
    """Row-major index of the pixel that homogeneous image points fall into, -1 outside the image."""
    height, width = depth.shape[-2:]
    front = depth > MIN_DEPTH
    safe = torch.where(front, depth, torch.ones_like(depth))
    column = (pixel[..., 0] / safe).detach().floor()
    row = (pixel[..., 1] / safe).detach().floor()
    inside = front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row * width + column).nan_to_num().clamp(0, height * width - 1).long()
    return torch.where(inside, index, torch.full_like(index, -1))
