"""Ridge regression of many targets on one set of inputs, in float64, from samples that never lie in memory together.

    min over W, b of  1/n Σ ‖W x + b - y‖² + λ ‖W‖²        (the bias is free)

Targets come in parts (the blocks of an encoder, one after another), so that only one part of a few samples is held at
a time. The inputs' Gram matrix is shared by all of them.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from vggrpo.runtime.errors import UserError

BYTES = 8
"""Of a number in float64."""


def float64_device(device: torch.device) -> torch.device:
    """Where sums are kept: with the samples, or on the CPU where the device has no float64 (Apple's)."""
    return torch.device("cpu") if device.type == "mps" else device


class NormalEquations:
    """Streaming sums for the regression of y on (x, 1)."""

    def __init__(self, features: int, *, targets: int, device: torch.device | None = None) -> None:
        """``features`` entries in x (without the constant), ``targets`` in all parts of y together."""
        self.count = 0
        self._gram = torch.zeros(features + 1, features + 1, dtype=torch.float64, device=device)
        self._cross = torch.zeros(features + 1, targets, dtype=torch.float64, device=device)

    def add(self, x: Float[Tensor, "n features"], parts: Iterable[Float[Tensor, "n _"]]) -> None:
        """Add n samples, their targets part by part from the first column on."""
        inputs = with_constant(x, like=self._gram)
        self.count += inputs.shape[0]
        self._gram.addmm_(inputs.T, inputs)
        start = 0
        for part in parts:
            columns = self._cross[:, start : start + part.shape[1]]
            columns.addmm_(inputs.T, part.to(columns))
            start += part.shape[1]

    def solve(self, *, ridge: float) -> Float[Tensor, "inputs targets"]:
        """Weights (rows of x, then the bias). The sums are used up: their memory is the solution's.

        Raises:
            UserError: no samples were added.
        """
        if self.count == 0:
            raise UserError("the stitching search was given no clips; it needs at least one to fit and one to test")
        self._gram /= self.count
        self._gram.diagonal()[:-1].add_(ridge)
        factor = torch.linalg.cholesky(self._gram)
        solution = torch.cholesky_solve(self._cross.div_(self.count), factor)
        del self._gram, self._cross
        return solution


class Residuals:
    """What a solution leaves unexplained on other samples, part by part: Σ (W x + b - y)² and Σ (y - mean of y)²."""

    def __init__(self, solution: Float[Tensor, "inputs targets"]) -> None:
        """Of a solution by ``NormalEquations``."""
        self.count = 0
        self._solution = solution
        self._sum = solution.new_zeros(solution.shape[1])
        self._square = solution.new_zeros(solution.shape[1])
        self._missed = solution.new_zeros(solution.shape[1])

    def add(self, x: Float[Tensor, "n features"], parts: Iterable[Float[Tensor, "n _"]]) -> None:
        """Add n samples, their targets part by part from the first column on."""
        inputs = with_constant(x, like=self._solution)
        self.count += inputs.shape[0]
        start = 0
        for part in parts:
            stop = start + part.shape[1]
            y = part.to(self._solution, copy=True)
            self._sum[start:stop] += y.sum(0)
            self._square[start:stop] += y.square().sum(0)
            # In place: y becomes W x + b - y.
            y.neg_().addmm_(inputs, self._solution[:, start:stop])
            self._missed[start:stop] += y.square_().sum(0)
            start = stop

    def missed(self) -> Float[Tensor, " targets"]:
        """Σ (W x + b - y)² of every target."""
        return self._missed

    def variation(self) -> Float[Tensor, " targets"]:
        """Σ (y - mean of y)² of every target."""
        return self._square - self._sum.square() / max(self.count, 1)


def with_constant(x: Float[Tensor, "n features"], *, like: Tensor) -> Float[Tensor, "n inputs"]:
    """(x, 1) in the precision and on the device of ``like``."""
    inputs = like.new_ones(x.shape[0], x.shape[1] + 1)
    inputs[:, :-1] = x
    return inputs


def sums_bytes(features: int, *, targets: int) -> int:
    """The most that ``NormalEquations`` holds: the Gram matrix and its factor, the cross products and the solution."""
    inputs = features + 1
    return BYTES * 2 * inputs * (inputs + targets)


def samples_bytes(features: int, *, width: int) -> int:
    """What one sample with one part of ``width`` targets takes while it is added, in float32 and in float64."""
    return (BYTES + 4) * (features + 1 + width)
