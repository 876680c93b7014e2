"""Stage 1a: where to cut the geometry model, and the connector's closed-form initialisation.

For every block k of the frame-wise encoder, ridge regression fits the connector (a linear map of unfolded latent
patches) to the patch tokens after block k less their position embedding, which a convolution cannot carry:

    min over W, b of  1/n Σ ‖W x + b - y‖² + λ ‖W‖²        (λ = 1e-4, the bias is free)

One set of streaming float64 normal equations serves all blocks. They are compared by the configuration error
ε_k = 1 - R² on clips that were not fitted: raw squared errors of different blocks are not comparable.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vggrpo.latent_geometry.connector import Connector, ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

RIDGE = 1e-4


@dataclass(frozen=True, kw_only=True)
class AlignedClip:
    """The same video twice: as normalised latents, and as images in [0, 1]. B is 1 or more."""

    latents: Latents
    images: Float[Tensor, "B N 3 H W"]


@dataclass(frozen=True, kw_only=True)
class LayerFit:
    """The best connector to one block: ``error`` is ε_k, ``prefix`` the mean class and register tokens after it."""

    block: int
    error: float
    weight: Float[Tensor, "D features"]
    bias: Float[Tensor, " D"]
    prefix: Float[Tensor, "prefix D"]


class NormalEquations:
    """Streaming sums for linear regression of y on (x, 1), in float64."""

    def __init__(self, features: int, *, targets: int) -> None:
        """``features`` entries in x (without the constant), ``targets`` in y."""
        self.count = 0
        self._gram = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self._cross = torch.zeros(features + 1, targets, dtype=torch.float64)
        self._target_sum = torch.zeros(targets, dtype=torch.float64)
        self._target_square = torch.zeros(targets, dtype=torch.float64)

    def add(self, x: Float[Tensor, "n features"], y: Float[Tensor, "n targets"]) -> None:
        """Add n samples."""
        x, y = x.double().cpu(), y.double().cpu()
        with_one = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        self.count += x.shape[0]
        self._gram += with_one.T @ with_one
        self._cross += with_one.T @ y
        self._target_sum += y.sum(0)
        self._target_square += y.square().sum(0)

    def solve(self, *, ridge: float = RIDGE) -> Float[Tensor, "inputs targets"]:
        """Weights (rows of x, then the bias) of the regularised least squares.

        Raises:
            UserError: no samples were added.
        """
        if self.count == 0:
            raise UserError("the stitching search was given no clips; it needs at least one to fit and one to test")
        penalty = torch.full((self._gram.shape[0],), ridge, dtype=torch.float64)
        penalty[-1] = 0.0
        factor = torch.linalg.cholesky(self._gram / self.count + penalty.diag())
        return torch.cholesky_solve(self._cross / self.count, factor)

    def unexplained(self, solution: Float[Tensor, "inputs targets"]) -> Float[Tensor, " targets"]:
        """Σ (W x + b - y)² over the samples, for every target."""
        fitted = (solution * (self._gram @ solution)).sum(0) - 2 * (solution * self._cross).sum(0)
        return (self._target_square + fitted).clamp_min(0)

    def variation(self) -> Float[Tensor, " targets"]:
        """Σ (y - mean of y)² over the samples, for every target."""
        return self._target_square - self._target_sum.square() / max(self.count, 1)


@torch.no_grad()
def search_stitching_layer(
    model: GeometryModel,
    config: ConnectorConfig,
    *,
    fit: Iterable[AlignedClip],
    test: Iterable[AlignedClip],
    ridge: float = RIDGE,
) -> tuple[LayerFit, ...]:
    """Fit a connector to every block of the encoder; the result is sorted by ε, best first.

    Raises:
        UserError: there are no clips, or the token grids of latents and images differ.
    """
    connector = Connector(config)
    targets = model.encoder_depth * model.token_dim
    fitted = NormalEquations(config.patch_features, targets=targets)
    tested = NormalEquations(config.patch_features, targets=targets)
    prefixes = [_add_clip(fitted, clip, model=model, connector=connector) for clip in fit]
    for clip in test:
        _add_clip(tested, clip, model=model, connector=connector)
    solution = fitted.solve(ridge=ridge)
    if tested.count == 0:
        raise UserError("the stitching search was given no clips to test on; give it at least one")
    prefix = torch.stack(prefixes).mean(0)
    shape = (model.encoder_depth, model.token_dim)
    missed, variation = tested.unexplained(solution).view(shape).sum(1), tested.variation().view(shape).sum(1)
    errors = (missed / variation).tolist()
    fits = [
        LayerFit(
            block=index + 1,
            error=errors[index],
            weight=solution[:-1].unflatten(1, shape)[:, index].T.float(),
            bias=solution[-1].view(shape)[index].float(),
            prefix=prefix[index].float(),
        )
        for index in range(model.encoder_depth)
    ]
    return tuple(sorted(fits, key=lambda one: one.error))


def _add_clip(
    equations: NormalEquations, clip: AlignedClip, *, model: GeometryModel, connector: Connector
) -> Float[Tensor, "blocks prefix D"]:
    """Add the patches and tokens of a clip; returns the mean prefix tokens after every block."""
    grid = (clip.images.shape[-2] // model.patch_size, clip.images.shape[-1] // model.patch_size)
    patches = connector.unfold(clip.latents.tensor.float())
    frames = clip.images.shape[1]
    if patches.shape[1:4] != (frames, *grid):
        raise UserError(
            f"latents give {patches.shape[1]} frames of {patches.shape[2]} x {patches.shape[3]} tokens, the video "
            f"{frames} of {grid[0]} x {grid[1]}: choose the connector's stride so that both grids agree"
        )
    positions = model.position_embedding(grid)
    count = model.num_prefix_tokens
    activations = [tokens.double() for tokens in model.encoder_activations(clip.images)]
    tokens = torch.cat([(one[:, :, count:] - positions).flatten(0, 2) for one in activations], dim=-1)
    equations.add(patches.flatten(0, 3), tokens)
    return torch.stack([one[:, :, :count].mean((0, 1)) for one in activations])


def error_table(fits: Iterable[LayerFit], *, chosen: int) -> Table:
    """The configuration error ε of every block, in the order of the blocks."""
    table = Table(title="Stitching-layer search: configuration error ε = 1 - R² on held-out clips")
    table.add_column("cut after block", justify="right")
    table.add_column("ε", justify="right")
    table.add_column("")
    for fit in sorted(fits, key=lambda one: one.block):
        table.add_row(str(fit.block), f"{fit.error:.4f}", "← chosen" if fit.block == chosen else "")
    return table


def show_errors(fits: Iterable[LayerFit], *, chosen: int) -> None:
    """Print the table of ε to standard error."""
    Console(stderr=True).print(error_table(fits, chosen=chosen))
