"""Pose and scale heads of Any4D."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualPointwise(nn.Module):
    """x + relu(conv3(relu(conv2(relu(conv1(x)))))) with 1 × 1 convolutions."""

    def __init__(self, dim: int) -> None:
        """``dim`` channels in and out."""
        super().__init__()
        self.res_conv1 = nn.Conv2d(dim, dim, kernel_size=1)
        self.res_conv2 = nn.Conv2d(dim, dim, kernel_size=1)
        self.res_conv3 = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Apply the unit."""
        hidden = F.relu(self.res_conv2(F.relu(self.res_conv1(x))))
        return x + F.relu(self.res_conv3(hidden))


class PoseHead(nn.Module):
    """Camera pose of each view from its tokens: translation and quaternion, neither normalised nor scaled."""

    def __init__(self, input_dim: int, *, hidden: int, num_blocks: int) -> None:
        """``hidden`` channels, ``num_blocks`` residual units before the mean over the token grid."""
        super().__init__()
        self.proj = nn.Conv2d(input_dim, hidden, kernel_size=1)
        self.res_conv = nn.ModuleList(ResidualPointwise(hidden) for _ in range(num_blocks))
        self.more_mlps = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.fc_t = nn.Linear(hidden, 3)
        self.fc_rot = nn.Linear(hidden, 4)

    def forward(self, tokens: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch 7"]:
        """Translation (3) and quaternion (4: x, y, z, w)."""
        x = self.proj(tokens)
        for unit in self.res_conv:
            x = unit(x)
        x = self.more_mlps(x.mean(dim=(2, 3)))
        return torch.cat([self.fc_t(x), self.fc_rot(x)], dim=-1)


class ScaleHead(nn.Module):
    """Logarithm of the metric scale of a video from its scale token."""

    def __init__(self, input_dim: int, *, hidden: int) -> None:
        """Two hidden layers of ``hidden`` channels."""
        super().__init__()
        self.proj = nn.Linear(input_dim, hidden)
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(2))
        self.output_proj = nn.Linear(hidden, 1)

    def forward(self, token: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch 1"]:
        """The raw value; its exponential is the scale."""
        x = self.proj(token)
        for layer in self.mlp:
            x = layer(x)
        return self.output_proj(x)
