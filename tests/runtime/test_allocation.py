"""Peak allocations of tensors. Oracle: sizes written down."""

import pytest
import torch
from torch import nn

from vggrpo.runtime.allocation import MEBIBYTE, peak_allocation_mb, weights_mb

CPU = torch.device("cpu")


def megabytes(count: int) -> torch.Tensor:
    return torch.empty(count * MEBIBYTE, dtype=torch.uint8)


def test_the_peak_is_what_was_held_at_once() -> None:
    """3 + 4 at once, then 4 + 2: seven, and not the nine that were asked for in all."""
    kept = []

    def work() -> None:
        first = megabytes(3)
        kept.append(megabytes(4))
        del first
        kept.append(megabytes(2))

    assert peak_allocation_mb(work, device=CPU) == pytest.approx(7.0, abs=0.01)


def test_what_was_there_before_does_not_count() -> None:
    held = [megabytes(8)]
    assert peak_allocation_mb(lambda: megabytes(1), device=CPU) == pytest.approx(1.0, abs=0.01)
    assert peak_allocation_mb(held.clear, device=CPU) == 0.0


def test_weights_are_counted_once() -> None:
    layer = nn.Linear(1024, 256, bias=False)
    layer.register_buffer("table", torch.zeros(1024, 256, dtype=torch.bfloat16))
    assert weights_mb(layer) == 1.5
    assert weights_mb(layer, nn.Sequential(layer)) == 1.5
