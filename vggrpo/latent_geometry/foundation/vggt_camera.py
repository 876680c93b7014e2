"""Camera head of VGGT (arXiv 2503.11651): each frame's camera from its camera token, refined step by step.

Written from the paper, key names and golden tensors. In every step the cameras so far modulate the tokens (adaptive
layer norm, arXiv 2212.09748), a small transformer lets the frames talk, and a correction is added.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vggrpo.latent_geometry.foundation.vit import Block, BlockStyle, Mlp, Recomputing

TRUNK_BLOCK = BlockStyle(layer_scale=0.01, norm_epsilon=1e-5)
NORM_EPSILON = 1e-5
MODULATED_NORM_EPSILON = 1e-6
POSE_NUMBERS = 9
"""Translation (3), quaternion x, y, z, w (4, not normalised), vertical and horizontal field of view (2, radians)."""
FIELD_OF_VIEW = 7


class CameraHead(Recomputing):
    """Pose encodings of all frames."""

    def __init__(self, dim: int, *, depth: int, num_heads: int, iterations: int) -> None:
        """Tokens have ``dim`` channels; the trunk has ``depth`` blocks and runs ``iterations`` times."""
        super().__init__()
        self.iterations = iterations
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_NUMBERS))
        self.token_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.trunk = nn.ModuleList(Block(dim, num_heads=num_heads, style=TRUNK_BLOCK) for _ in range(depth))
        self.trunk_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.embed_pose = nn.Linear(POSE_NUMBERS, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.pose_branch = Mlp(dim, hidden=dim // 2, output=POSE_NUMBERS)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N 9"], ...]:
        """The pose encoding after every iteration; the last one is the answer.

        Each step starts from the former one without its graph: gradients do not run through the whole chain.
        """
        tokens = self.token_norm(tokens)
        normalised = F.layer_norm(tokens, tokens.shape[-1:], eps=MODULATED_NORM_EPSILON)
        pose = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        encodings = []
        for step in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
            hidden = tokens + gate * (normalised * (1 + scale) + shift)
            for block in self.trunk:
                hidden = self.run(block, hidden)
            change = self.pose_branch(self.trunk_norm(hidden))
            total = change if step == 0 else pose + change
            # A field of view is not negative; what is fed back is the sum before this.
            encodings.append(torch.cat([total[..., :FIELD_OF_VIEW], F.relu(total[..., FIELD_OF_VIEW:])], dim=-1))
            pose = total.detach()
        return tuple(encodings)
