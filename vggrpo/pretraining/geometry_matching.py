"""What teaches Φ to see camera motion: every token is told where it lies in the reference frame.

A pose alone is a weak teacher. From a few thousand clips a small transformer does not discover that frames are to be
matched, and believes in still cameras (measured: no gain over a still camera within 2000 steps). The procedural world
knows every correspondence, so three cheap losses spell the way out, each one step from the one before:

- matching: some heads of the middle global layers attend from a token to the place in the reference frame where its
  point lies (cross entropy to the bilinear weights of the four tokens around it);
- displacement: behind them, a linear map of each token reads how far that place is from its own;
- token pose and token flow: at the end, a linear map of each token reads the pose of its frame, and its scene flow.

The linear maps exist in training only. Φ itself is the plain Any4D architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.geometry.projection import camera_centres
from vggrpo.geometry.scene_scale import scene_scale
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.any4d_start import matching_layers
from vggrpo.latent_geometry.foundation.vit import Block
from vggrpo.pretraining.geometry_batches import GeometryBatch
from vggrpo.pretraining.geometry_losses import FLOW_SOFTENING, MEDIAN_ROTATIONS, RotationLoss, mean_over, softened

NEAREST_DEPTH = 0.05
# A point is seen in the reference frame if its depth there is that of the surface, to this fraction.
VISIBLE_DEPTH = 0.06
# Displacements are cut here (in tokens): points far outside the reference frame teach nothing more.
LARGEST_DISPLACEMENT = 4.0
DISPLACEMENT_SOFTENING = 0.1
POSE_NUMBERS = 12
SUPERVISED_HEADS = 2


@dataclass(frozen=True, kw_only=True)
class TokenTruth:
    """What every token of every frame should know; positions in tokens, (column, row), token centres at +0.5.

    ``place`` is where the point behind a token's centre lies in the reference frame (a moving object's point moves back
    with it), ``seen`` whether it is visible there, ``own`` the token's own place; ``flow`` its scene flow in scene
    scales.
    """

    place: Float[Tensor, "B N patches 2"]
    seen: Bool[Tensor, "B N patches"]
    own: Float[Tensor, "patches 2"]
    flow: Float[Tensor, "B N patches 3"]
    flow_known: Bool[Tensor, "B N patches"]
    moving: Bool[Tensor, "B N patches"]


def token_truth(batch: GeometryBatch, *, patch_size: int) -> TokenTruth:
    """Correspondences and flow at the pixel in the middle of each token."""
    middle = slice(patch_size // 2, None, patch_size)
    truth = batch.truth
    points = batch.first_points[:, :, middle, middle]
    depth = points[..., 2].clamp_min(NEAREST_DEPTH)
    focal = truth.intrinsics[:, 0, (0, 1), (0, 1)][:, None, None, None]
    pixels = points[..., :2] / depth[..., None] * focal + truth.intrinsics[:, 0, :2, 2][:, None, None, None]
    height, width = truth.depth.shape[-2:]
    size = torch.tensor([width, height])
    inside = ((pixels > 0) & (pixels < size)).all(-1) & (points[..., 2] > NEAREST_DEPTH)
    column, row = (pixels[..., axis].clamp(0, int(size[axis]) - 1).long() for axis in (0, 1))
    there = truth.depth[:, 0].flatten(1).gather(1, (row * width + column).flatten(1)).view_as(depth)
    seen = truth.valid[:, :, middle, middle] & inside & ((there - depth).abs() < VISIBLE_DEPTH * depth)
    rows, columns = (torch.arange(length)[middle] + 0.5 for length in (height, width))
    own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1) / patch_size
    scale = scene_scale(truth.depth, valid=truth.valid)
    known = truth.valid[:, :, middle, middle] & batch.flow_known[:, :, None, None]
    return TokenTruth(
        place=(pixels / patch_size).flatten(2, 3),
        seen=seen.flatten(2),
        own=own.flatten(0, 1),
        flow=truth.scene_flow[:, :, middle, middle].flatten(2, 3) / scale[:, None, None, None],
        flow_known=known.flatten(2),
        moving=batch.moving[:, :, middle, middle].flatten(2),
    )


def bilinear_target(
    place: Float[Tensor, "B N patches 2"], *, grid: tuple[int, int]
) -> Float[Tensor, "B N patches reference"]:
    """Weights of the four reference tokens around each place; they add up to 1 (at the border onto fewer tokens)."""
    rows, columns = grid
    position = place - 0.5
    low = position.floor()
    share = position - low
    target = position.new_zeros(*position.shape[:3], rows * columns)
    for right in (0, 1):
        for down in (0, 1):
            weight_x = share[..., 0] if right else 1 - share[..., 0]
            weight_y = share[..., 1] if down else 1 - share[..., 1]
            column = (low[..., 0] + right).clamp(0, columns - 1).long()
            row = (low[..., 1] + down).clamp(0, rows - 1).long()
            target.scatter_add_(3, (row * columns + column)[..., None], (weight_x * weight_y)[..., None])
    return target


class MatchingTeacher(nn.Module):
    """Watches the middle and last sharing layers of an Any4D while it runs, and compares them with the truth.

    Call it right after the model, on the batch that the model has just seen.
    """

    def __init__(self, model: Any4D) -> None:
        """Attach to ``model``; the teacher's own parameters are three linear maps that start at zero."""
        super().__init__()
        dim = model.config.sharing_dim
        self.displacement = nn.Linear(dim, 2)
        self.pose = nn.Linear(dim, POSE_NUMBERS)
        self.flow = nn.Linear(dim, 3)
        for layer in (self.displacement, self.pose, self.flow):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self._patch_size = model.patch_size
        self._seen: dict[str, Tensor] = {}
        blocks = [block for block in model.info_sharing.self_attention_blocks if isinstance(block, Block)]
        layers = matching_layers(len(blocks))
        # In a tuple, the watched blocks do not become parameters of the teacher.
        self._watched = tuple(blocks[index] for index in layers)
        for number, block in enumerate(self._watched):
            block.attn.register_forward_pre_hook(self._keep_input(f"attention {number}"))
        blocks[layers[-1] + 1].register_forward_hook(self._keep_output("middle"))
        blocks[-1].register_forward_hook(self._keep_output("end"))

    def forward(
        self, batch: GeometryBatch, *, rotations: RotationLoss = MEDIAN_ROTATIONS
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses ``matching``, ``displacement``, ``token_pose`` and ``token_flow``."""
        truth = token_truth(batch, patch_size=self._patch_size)
        shape = truth.seen.shape
        others = truth.seen.clone()
        others[:, 0] = False
        middle, end = (self._tokens(name, shape=shape) for name in ("middle", "end"))
        displacement = (truth.place - truth.own).clamp(-LARGEST_DISPLACEMENT, LARGEST_DISPLACEMENT)
        missed = softened(self.displacement(middle) - displacement, beta=DISPLACEMENT_SOFTENING)
        flow_error = softened(self.flow(end) - truth.flow, beta=FLOW_SOFTENING)
        moving, known = truth.moving, truth.flow_known
        losses = {
            "matching": self._matching(truth, others=others, grid=self._grid(batch)),
            "displacement": mean_over(missed, others),
            "token_pose": _pose_loss((self.pose(end) - _pose_numbers(batch))[:, 1:], rotations=rotations),
            "token_flow": mean_over(flow_error, known & moving) + mean_over(flow_error, known & ~moving),
        }
        self._seen.clear()
        return losses

    def _matching(
        self, truth: TokenTruth, *, others: Bool[Tensor, "B N patches"], grid: tuple[int, int]
    ) -> Float[Tensor, ""]:
        """Cross entropy of the supervised heads' attention, over all keys, to the place in the reference frame."""
        _, views, patches = truth.seen.shape
        target = bilinear_target(truth.place, grid=grid).flatten(1, 2)
        total = target.new_zeros(())
        for number, block in enumerate(self._watched):
            tokens = self._seen[f"attention {number}"]
            attention = block.attn
            width = tokens.shape[-1] // attention.num_heads
            heads = min(SUPERVISED_HEADS, attention.num_heads)
            both = [slice(part * tokens.shape[-1], part * tokens.shape[-1] + heads * width) for part in (0, 1)]
            query, key = (F.linear(tokens, attention.qkv.weight[rows], attention.qkv.bias[rows]) for rows in both)
            query, key = (one.unflatten(-1, (heads, width)).transpose(1, 2) for one in (query, key))
            logits = (query[:, :, : views * patches] * width**-0.5) @ key.transpose(-1, -2)
            log_attention = logits.float().log_softmax(-1)[..., :patches]
            entropy = -(target[:, None] * log_attention).sum(-1).mean(1)
            total = total + mean_over(entropy, others.flatten(1)) / len(self._watched)
        return total

    def _tokens(self, name: str, *, shape: torch.Size) -> Float[Tensor, "B N patches D"]:
        """What a layer made of the patch tokens, normalised as the heads read it."""
        tokens = self._seen[name].float()
        batch, views, patches = shape
        if tokens.shape[0] == batch and views > 1:
            # A global layer: all views in one row, and the scale token behind them.
            tokens = tokens[:, : views * patches]
        return F.layer_norm(tokens.reshape(batch, views, patches, -1), tokens.shape[-1:])

    def _grid(self, batch: GeometryBatch) -> tuple[int, int]:
        return batch.images.shape[-2] // self._patch_size, batch.images.shape[-1] // self._patch_size

    def _keep_input(self, name: str) -> Callable[[nn.Module, tuple[Tensor, None]], None]:
        def keep(_module: nn.Module, inputs: tuple[Tensor, None]) -> None:
            # Behind the tokens stand their rotary positions, which this layer does not have.
            self._seen[name] = inputs[0]

        return keep

    def _keep_output(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen[name] = output

        return keep


def _pose_loss(difference: Float[Tensor, "B N patches 12"], *, rotations: RotationLoss) -> Float[Tensor, ""]:
    """One norm of rotation and centre together; two where they are softened differently."""
    if rotations == MEDIAN_ROTATIONS:
        return softened(difference).mean()
    return rotations(difference[..., :9]).mean() + softened(difference[..., 9:]).mean()


def _pose_numbers(batch: GeometryBatch) -> Float[Tensor, "B N 1 12"]:
    """World-from-camera rotation less the identity, and the camera's centre in scene scales."""
    camera = batch.truth.camera_from_world
    turned = camera[..., :3, :3].transpose(-1, -2) - torch.eye(3)
    scale = scene_scale(batch.truth.depth, valid=batch.truth.valid)
    centre = camera_centres(camera) / scale[:, None, None]
    return torch.cat([turned.flatten(-2), centre], dim=-1)[:, :, None]
