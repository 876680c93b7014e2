"""How the transformer runs while it is trained: activation checkpointing, attention kernel, compiled blocks.

None of it may change what a replay gives against its rollout: both go through the same module with the same options.
Compiling needs one thing more. Without autograd a block is compiled into another program, whose bfloat16 results differ
by some 1e-5 in the log-probability (measured with inductor on a CPU), so window steps of a rollout then run with
autograd on, as the replay does (``RolloutSettings.autograd_in_window``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import WanTransformer3DModel
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vggrpo.grpo.config import GrpoConfig
from vggrpo.policy.adapter import remove_adapter
from vggrpo.runtime.errors import UserError

_AUTO = "native"
_KERNELS: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextmanager
def as_configured(transformer: WanTransformer3DModel, config: GrpoConfig) -> Iterator[None]:
    """Within it the transformer runs as the settings say; then it is as it was, without adapter.

    Raises:
        UserError: this device has no such attention kernel.
    """
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if config.attention != "auto":
        _use_attention(transformer, config.attention)
    try:
        yield
    finally:
        for block in transformer.blocks:
            # What ``Module.compile`` sets; there is no public way back.
            block._compiled_call_impl = None  # noqa: SLF001
        remove_adapter(transformer)
        if config.attention != "auto":
            transformer.set_attention_backend(_AUTO)
        if config.gradient_checkpointing:
            transformer.disable_gradient_checkpointing()


def compile_blocks(transformer: WanTransformer3DModel, config: GrpoConfig) -> None:
    """Compile every block; to be called when the adapter is on, which is part of what is compiled.

    Blocks and not the whole: they are alike, so one compilation serves all. Shapes are taken as they are, since a
    program for all shapes would round differently from one for a single shape.
    """
    if config.compile == "off":
        return
    for block in transformer.blocks:
        block.compile(backend=config.compile, dynamic=False)


def _use_attention(transformer: WanTransformer3DModel, kernel: str) -> None:
    """Try the kernel on a few numbers first: diffusers takes every name, and the first rollout would fail."""
    tried = torch.zeros(1, 1, 8, transformer.config.attention_head_dim, device=transformer.device)
    tried = tried.to(transformer.dtype)
    try:
        with sdpa_kernel(_KERNELS[kernel]):
            F.scaled_dot_product_attention(tried, tried, tried)
    except RuntimeError as error:
        raise UserError(f"--attention {kernel} cannot be used on {transformer.device}: leave it out.") from error
    transformer.set_attention_backend(f"_native_{kernel}")
