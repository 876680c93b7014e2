"""A stand-in for the package ``depth_anything_3``: the attributes and calls that the adapter relies on, made small.

Checked against the real package 0.1.1 by hand (random weights, da3-small): the adapter's output equalled the package's
bit for bit, and so did the replay from every cut.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

WIDTH = 384
ALT_START = 2
PATCH = 14


class Block(nn.Module):
    """Mixes the tokens that it is given together."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, pos: Tensor | None = None, attn_mask: Tensor | None = None) -> Tensor:
        return x + 0.1 * self.mlp(x) + 0.1 * x.mean(dim=1, keepdim=True)


class Backbone(nn.Module):
    """Frame-wise blocks, then blocks over all frames; picks its own reference frame unless told not to."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size, self.embed_dim, self.alt_start, self.num_register_tokens = PATCH, WIDTH, ALT_START, 0
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.camera_token = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def interpolate_pos_encoding(self, x: Tensor, w: int, h: int) -> Tensor:
        rows = torch.arange(w // PATCH).repeat_interleave(h // PATCH)
        patches = self.pos_embed[:, 1:2] * rows[:, None] + self.pos_embed[:, 2:3]
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def prepare_tokens_with_masks(self, x: Tensor, masks: None = None) -> Tensor:
        batch, frames, _, height, width = x.shape
        patches = self.patch_embed(x.flatten(0, 1)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return (tokens + self.interpolate_pos_encoding(tokens, height, width)).unflatten(0, (batch, frames))

    def forward(self, images: Tensor, *, strategy: str) -> tuple:
        x = self.prepare_tokens_with_masks(images)
        batch, frames = x.shape[:2]
        for index, block in enumerate(self.blocks):
            if index == ALT_START:
                if strategy != "first":
                    x = x.flip(1)
                rest = self.camera_token[:, 1:].expand(batch, frames - 1, -1)
                x[:, :, 0] = torch.cat([self.camera_token[:, :1].expand(batch, -1, -1), rest], dim=1)
            if index >= ALT_START:
                x = block(x.flatten(1, 2), pos=None, attn_mask=None).unflatten(1, (frames, -1))
            else:
                x = block(x.flatten(0, 1), pos=None, attn_mask=None).unflatten(0, (batch, frames))
        return ((x[:, :, 1:], x[:, :, 0]),), []


class Wrapper(nn.Module):
    """The official nesting ``backbone.pretrained``."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained = Backbone()

    def forward(self, x: Tensor, *, ref_view_strategy: str) -> tuple:
        return self.pretrained(x, strategy=ref_view_strategy)


class CameraDecoder(nn.Module):
    """Known cameras that stand one behind the other, each a tenth further, and turn a little."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_t = nn.Linear(WIDTH, 1)


class Network(nn.Module):
    """Depth from patch tokens, cameras from a formula: frame i is camera-from-world [R(0.1 i) | (0, 0, 0.1 i)]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Wrapper()
        self.head = nn.Linear(WIDTH, 1)
        # The real package registers one norm under several names.
        self.head.norms = nn.ModuleList([nn.LayerNorm(2)] * 2)
        self.cam_dec = CameraDecoder()

    def forward(self, x: Tensor, ref_view_strategy: str = "saddle_balanced") -> dict[str, Tensor]:
        (patches, camera), *_ = self.backbone(x, ref_view_strategy=ref_view_strategy)[0]
        batch, frames, _, height, width = x.shape
        coarse = self.head(patches).exp().reshape(batch, frames, height // PATCH, width // PATCH)
        depth = coarse.repeat_interleave(PATCH, -2).repeat_interleave(PATCH, -1)
        turn = 0.1 * torch.arange(frames)
        extrinsics = torch.zeros(batch, frames, 3, 4)
        extrinsics[..., 0, 0] = extrinsics[..., 2, 2] = turn.cos()
        extrinsics[..., 0, 2], extrinsics[..., 2, 0] = turn.sin(), -turn.sin()
        extrinsics[..., 1, 1] = 1
        extrinsics[..., 2, 3] = 0.1 * torch.arange(frames)
        extrinsics = extrinsics + 0 * self.cam_dec.fc_t(camera)[..., None]
        focal = 50.0
        intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return {
            "depth": depth,
            "depth_conf": 1 + depth,
            "extrinsics": extrinsics,
            "intrinsics": intrinsics.expand(batch, frames, 3, 3),
        }


def fake_modules() -> dict[str, ModuleType]:
    """What ``sys.modules`` holds when the package is installed."""
    package, configurations = ModuleType("depth_anything_3"), ModuleType("depth_anything_3.cfg")
    known = {f"depth_anything_3.configs.da3-{size}" for size in ("small", "base", "large")}
    configurations.load_config = lambda name: known & {name}
    configurations.create_object = lambda configuration: Network() if configuration else None
    package.cfg = configurations
    return {"depth_anything_3": package, "depth_anything_3.cfg": configurations}
