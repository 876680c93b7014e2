"""Stage 1a: where to cut the geometry model, and the connector's closed-form initialisation.

For every block k of the frame-wise encoder, ridge regression fits the connector (a linear map of unfolded latent
patches) to the patch tokens after block k less their position embedding, which a convolution cannot carry:

    min over W, b of  1/n Σ ‖W x + b - y‖² + λ ‖W‖²        (λ = 1e-4, the bias is free)

Streaming float64 sums serve all blocks, or a few at a time where memory is short (``streaming_regression``). Blocks are
compared by the configuration error ε_k = 1 - R² on clips that were not fitted: raw squared errors of different blocks
are not comparable.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vggrpo.latent_geometry.connector import Connector, ConnectorConfig
from vggrpo.latent_geometry.foundation.base import GeometryModel, Grid
from vggrpo.latent_geometry.streaming_regression import (
    NormalEquations,
    Residuals,
    float64_device,
    samples_bytes,
    sums_bytes,
)
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

RIDGE = 1e-4
SEARCH_MEMORY_GIB = 8.0
"""Enough for all 24 blocks of the released models at once: 1.2 GiB with 16 latent channels, 3.9 GiB with 48."""
ROWS_AT_ONCE = 8192
"""Tokens whose patches are held together: frames are added until they have about so many."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """How the search keeps to its memory.

    The encoder works frame by frame, so ``frames_at_once`` of a clip pass through it together, and the regression of
    ``blocks_at_once`` blocks is held at a time: with fewer than all, the clips are read ``passes`` times.
    """

    frames_at_once: int
    blocks_at_once: int
    passes: int
    bytes: int
    """The most that sums and samples take, besides the geometry model and its activations."""

    def describe(self) -> str:
        """One line for people."""
        again = "" if self.passes == 1 else f", reading the clips {self.passes} times"
        return f"stitching search: at most {self.bytes / 2**30:.2f} GiB for its sums{again}"


def plan_search(model: GeometryModel, config: ConnectorConfig, *, grid: Grid, limit_gib: float) -> SearchPlan:
    """The fewest passes that fit into ``limit_gib``.

    Raises:
        UserError: not even one block at a time fits.
    """
    tokens = grid[0] * grid[1]
    frames = max(1, ROWS_AT_ONCE // tokens)
    samples = frames * tokens * samples_bytes(config.patch_features, width=model.token_dim)
    # All blocks' solutions are kept in float32 for the caller.
    kept = 4 * model.encoder_depth * model.token_dim * (config.patch_features + 1)
    for passes in range(1, model.encoder_depth + 1):
        blocks = math.ceil(model.encoder_depth / passes)
        needed = samples + kept + sums_bytes(config.patch_features, targets=blocks * model.token_dim)
        if needed <= limit_gib * 2**30:
            return SearchPlan(frames_at_once=frames, blocks_at_once=blocks, passes=passes, bytes=needed)
    raise UserError(
        f"the stitching search needs {needed / 2**30:.2f} GiB even for one block at a time and was given "
        f"{limit_gib:g}: raise --search-memory-gib"
    )


@torch.no_grad()
def search_stitching_layer(
    model: GeometryModel,
    config: ConnectorConfig,
    *,
    fit: Sequence[AlignedClip],
    test: Sequence[AlignedClip],
    ridge: float = RIDGE,
    memory_gib: float = SEARCH_MEMORY_GIB,
) -> tuple[LayerFit, ...]:
    """Fit a connector to every block of the encoder; the result is sorted by ε, best first.

    Raises:
        UserError: there are no clips, the token grids of latents and images differ, or the memory is too small.
    """
    if not len(fit):
        raise UserError("the stitching search was given no clips; it needs at least one to fit and one to test")
    if not len(test):
        raise UserError("the stitching search was given no clips to test on; give it at least one")
    plan = plan_search(model, config, grid=model.grid_of(fit[0].images), limit_gib=memory_gib)
    groups = [
        range(start, min(start + plan.blocks_at_once, model.encoder_depth))
        for start in range(0, model.encoder_depth, plan.blocks_at_once)
    ]
    search = _Search(model=model, connector=Connector(config), plan=plan, ridge=ridge)
    fits = [one for blocks in groups for one in search.fits(blocks, fit=fit, test=test)]
    return tuple(sorted(fits, key=lambda one: one.error))


@dataclass(frozen=True, kw_only=True)
class _Search:
    """One pass over the clips a group of blocks."""

    model: GeometryModel
    connector: Connector
    plan: SearchPlan
    ridge: float

    def fits(self, blocks: range, *, fit: Iterable[AlignedClip], test: Iterable[AlignedClip]) -> list[LayerFit]:
        """The connectors to some blocks (numbered from 0) and their errors."""
        model, features = self.model, self.connector.config.patch_features
        device = float64_device(model.position_embedding((1, 1)).device)
        equations = NormalEquations(features, targets=len(blocks) * model.token_dim, device=device)
        prefixes = torch.zeros(len(blocks), model.num_prefix_tokens, model.token_dim, dtype=torch.float64)
        frames = 0
        for samples in self._samples(fit, blocks):
            equations.add(samples.patches, samples.tokens())
            prefixes += samples.prefix_sums()
            frames += samples.frames
        solution = equations.solve(ridge=self.ridge)
        residuals = Residuals(solution)
        for samples in self._samples(test, blocks):
            residuals.add(samples.patches, samples.tokens())
        shape = (len(blocks), model.token_dim)
        missed, variation = (one.view(shape).sum(1) for one in (residuals.missed(), residuals.variation()))
        errors = (missed / variation).tolist()
        weights = solution[:-1].unflatten(1, shape)
        return [
            LayerFit(
                block=block + 1,
                error=errors[index],
                weight=weights[:, index].T.float().cpu(),
                bias=solution[-1].view(shape)[index].float().cpu(),
                prefix=(prefixes[index] / frames).float(),
            )
            for index, block in enumerate(blocks)
        ]

    def _samples(self, clips: Iterable[AlignedClip], blocks: range) -> Iterator["_Samples"]:
        for clip in clips:
            self._require_equal_grids(clip)
            count = clip.images.shape[1]
            for start in range(0, count, self.plan.frames_at_once):
                frames = range(start, min(start + self.plan.frames_at_once, count))
                yield _Samples(model=self.model, connector=self.connector, clip=clip, frame_range=frames, blocks=blocks)

    def _require_equal_grids(self, clip: AlignedClip) -> None:
        grid, frames = self.model.grid_of(clip.images), clip.images.shape[1]
        latents = self.connector.output_grid(clip.latents.tensor)
        if latents != (frames, *grid):
            raise UserError(
                f"latents give {latents[0]} frames of {latents[1]} x {latents[2]} tokens, the video "
                f"{frames} of {grid[0]} x {grid[1]}: choose the connector's stride so that both grids agree"
            )


class _Samples:
    """Some frames of a clip: the patches of their latents, and their tokens after some blocks."""

    def __init__(
        self, *, model: GeometryModel, connector: Connector, clip: AlignedClip, frame_range: range, blocks: range
    ) -> None:
        self._model = model
        self._blocks = blocks
        self._images = clip.images[:, frame_range.start : frame_range.stop]
        self._prefixes: list[Tensor] = []
        self.patches = connector.unfold(clip.latents.tensor.float(), frames=frame_range).flatten(0, 3)
        self.frames = self._images.shape[0] * self._images.shape[1]

    def tokens(self) -> Iterator[Float[Tensor, "n D"]]:
        """Patch tokens after each block, less their position embedding; the encoder runs once, up to the last block."""
        model = self._model
        positions = model.position_embedding(model.grid_of(self._images))
        activations = islice(model.encoder_activations(self._images), self._blocks.stop)
        for index, tokens in enumerate(activations):
            if index in self._blocks:
                precise = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
                prefix = precise[:, :, : model.num_prefix_tokens]
                self._prefixes.append(prefix.flatten(0, 1).sum(0, dtype=precise.dtype).cpu().double())
                yield (precise[:, :, model.num_prefix_tokens :] - positions).flatten(0, 2)

    def prefix_sums(self) -> Float[Tensor, "blocks prefix D"]:
        """Sums of the class and register tokens over the frames, once ``tokens`` has run through."""
        return torch.stack(self._prefixes)


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
