"""What a piece of work computes and holds, without computing it: the very code runs on ``meta`` tensors.

Every operation is seen as it is dispatched. Its floating-point operations come from torch's own formulas, and the
storages that it makes are counted until they are freed, as the caching allocator of a GPU would count them. So the
numbers belong to the code that runs, not to a formula that somebody has to keep up to date.

Attention is the exception: on ``meta`` torch would write out the whole attention matrix, which no GPU does. Within a
dry run it is replaced by what fused kernels hold and compute (their backward pass recomputes the matrix).

Not counted: the workspaces of kernels, the allocator's rounding, and the context of the device.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_FORWARD_PRODUCTS, _BACKWARD_PRODUCTS = 2, 5
"""Matrix products of fused attention: Q Kᵀ and P V; backward Q Kᵀ once more, and the gradients of P, V, Q, K."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of a piece of work: floating-point operations, the most bytes it held at once, and those its result keeps.

    Bytes are beyond what was there before the work. Costs can be scaled and added where parts repeat.
    """

    flops: float
    peak_bytes: float
    kept_bytes: float = 0.0

    def per_more(self, more: "Cost", *, steps: int) -> "Cost":
        """This cost extended ``steps`` times by the difference between ``more`` and it: what grows by equal parts."""
        return Cost(
            flops=self.flops + steps * (more.flops - self.flops),
            peak_bytes=self.peak_bytes + steps * (more.peak_bytes - self.peak_bytes),
            kept_bytes=self.kept_bytes + steps * (more.kept_bytes - self.kept_bytes),
        )


def dry_run(work: Callable[[], object]) -> Cost:
    """The cost of ``work``, all of whose tensors must be on ``meta``; its result is held until it is measured."""
    counter = _Counter()
    with _fused_attention(counter), counter:
        result = work()
    kept = counter.held
    del result
    return Cost(flops=counter.flops, peak_bytes=float(counter.peak), kept_bytes=float(kept))


class _Counter(TorchDispatchMode):
    """Sees every operation below autograd, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.held = 0
        self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what it did."""
        named = dict(kwargs or {})
        # Weights and inputs were there before; they are met as arguments, ahead of their views.
        for tensor in tree_leaves((args, named)):
            self._meet(tensor, is_new=False)
        out = func(*args, **named)
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001 - what the registry is keyed by
        if formula is not None:
            self.flops += formula(*args, **named, out_val=out)
        for tensor in tree_leaves(out):
            self._meet(tensor, is_new=True)
        return out

    def _meet(self, tensor: object, *, is_new: bool) -> None:
        if not isinstance(tensor, Tensor) or not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        if is_new:
            size = storage.nbytes()
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.held -= size


class _FusedAttention(torch.autograd.Function):
    """softmax(Q Kᵀ / √d) V as a fused kernel holds it: inputs, output, and a log-sum-exp a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counter: _Counter) -> Tensor:
        """The output, empty."""
        ctx.counter = counter
        counter.flops += _product_flops(query, key, value) * _FORWARD_PRODUCTS
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> Any:
        """Gradients, empty."""
        query, key, value, *_ = ctx.saved_tensors
        ctx.counter.flops += _product_flops(query, key, value) * _BACKWARD_PRODUCTS
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _product_flops(query: Tensor, key: Tensor, value: Tensor) -> float:
    """Of one product over all pairs of tokens; the width is that of Q and K, or V's."""
    width = (query.shape[-1] + value.shape[-1]) / 2
    return 2.0 * query.shape[:-1].numel() * key.shape[-2] * width


@contextmanager
def _fused_attention(counter: _Counter) -> Iterator[None]:
    """Within it torch's attention is a fused kernel on ``meta``, and itself on every other device.

    Replaced by name: a torch-function mode would not reach what checkpointing recomputes in a backward pass.
    """
    genuine = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        if not query.is_meta:
            return genuine(query, key, value, *rest, **options)
        out: Tensor = _FusedAttention.apply(query, key, value, counter)
        return out

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = genuine
