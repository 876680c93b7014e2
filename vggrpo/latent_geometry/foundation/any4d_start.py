"""A start that lets a small Any4D learn camera motion from few videos, where the released one was pretrained.

From plain random weights a transformer first has to discover that the same patch in two frames has something to do with
itself; until then every camera is predicted to stand still. So positions start as a 2-D sinusoid,
global attention starts as similarity (query and key projections alike: "mimetic initialisation", arXiv 2305.09828), and
heads start at a still camera that looks along z, at unit distance, with no flow.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.vit import SelfAttention

POSITION_AMPLITUDE = 0.5
# Logit of a token with itself is about this squared times √(head width): 16 for heads of 64.
SIMILARITY_SHARPNESS = 1.4
SMALL = 0.1
# How much of what a token attends to is subtracted from it at the start.
DIFFERENCE_SHARE = 0.5


@torch.no_grad()
def start_from_scratch(model: Any4D) -> None:
    """Set the starting weights in place; deterministic under ``torch.manual_seed``."""
    vit = model.encoder.model
    dim = vit.pos_embed.shape[-1]
    vit.pos_embed[0, 1:] = POSITION_AMPLITUDE * grid_sinusoid(vit.position_grid, dim=dim)
    for block in model.info_sharing.self_attention_blocks[::2]:
        attend_to_the_similar(block.get_submodule("attn"))
    for index in matching_layers(model.config.sharing_depth):
        carry_the_difference(model.info_sharing.self_attention_blocks[index].get_submodule("attn"))
    start_pose_head(model)
    scale = model.scale_head.output_proj
    scale.weight.mul_(SMALL)
    scale.bias.fill_(math.log(3.0))
    for prefix, bias in (("", (0.0, 0.0, 1.0, 0.0, -1.0, 1.0)), ("scene_flow_", (0.0, 0.0, 0.0))):
        last = f"{prefix}dpt_regressor_head.conv2.2"
        model.get_parameter(f"{last}.weight").mul_(SMALL)
        model.get_parameter(f"{last}.bias").copy_(torch.tensor(bias))


@torch.no_grad()
def start_pose_head(model: Any4D) -> None:
    """Start the pose head as a nearly linear reading of the pooled tokens, at the identity.

    Tokens pooled over a frame differ little from one another. Behind default weights their differences shrink a
    hundredfold before they reach the output, and most ReLUs die while the head first learns "the camera stands still":
    from then on it can learn nothing else. So its units start alive, each with room on both sides of its kink.
    """
    pose = model.pose_head
    for unit in pose.res_conv:
        last = unit.get_submodule("res_conv3")
        nn.init.zeros_(last.get_parameter("weight"))
        nn.init.zeros_(last.get_parameter("bias"))
    for index, gain in ((0, 4.0), (2, 2.0)):
        layer = pose.more_mlps.get_submodule(str(index))
        nn.init.orthogonal_(layer.get_parameter("weight"), gain=gain)
        nn.init.ones_(layer.get_parameter("bias"))
    for layer in (pose.fc_t, pose.fc_rot):
        layer.weight.mul_(SMALL)
        layer.bias.zero_()
    pose.fc_rot.bias[3] = 1.0


def attend_to_the_similar(attention: nn.Module) -> None:
    """Query = key = an orthonormal projection for each head, so that a token attends to tokens like itself."""
    if not isinstance(attention, SelfAttention):
        raise TypeError(f"expected SelfAttention, got {type(attention).__name__}")
    dim = attention.proj.in_features
    width = dim // attention.num_heads
    for head in range(attention.num_heads):
        rows = torch.linalg.qr(torch.randn(dim, width)).Q.T * SIMILARITY_SHARPNESS
        for part in range(2):
            start = part * dim + head * width
            attention.qkv.weight[start : start + width] = rows
    attention.qkv.bias.zero_()


def matching_layers(depth: int) -> tuple[int, ...]:
    """The global sharing layers in which frames are to be matched: neither the first ones nor the last."""
    return tuple(range(2, depth - 2, 2)) or (0,)


def carry_the_difference(attention: nn.Module) -> None:
    """Value and output projections that subtract from a token what it attends to.

    A token that attends to its match then holds the difference of the two, positions included: its displacement.
    """
    if not isinstance(attention, SelfAttention):
        raise TypeError(f"expected SelfAttention, got {type(attention).__name__}")
    dim = attention.proj.in_features
    rotation = torch.linalg.qr(torch.randn(dim, dim)).Q
    attention.qkv.weight[2 * dim :] = rotation
    attention.proj.weight.copy_(-DIFFERENCE_SHARE * rotation.T)
    attention.proj.bias.zero_()


def grid_sinusoid(side: int, *, dim: int) -> Float[Tensor, "patches dim"]:
    """Half the channels encode the row, half the column; wavelengths from 2π to 200π patches."""
    frequency = 100.0 ** (-torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows, columns = axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)
