"""Dry runs against torch's own counter, a hand-written formula, and what the same code takes when it really runs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vggrpo.generation.architecture import Architecture, architecture_of
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.planning.costs import JUDGE_BYTES_A_POINT, META, Cost, bytes_of, policy_costs
from vggrpo.planning.costs import _policy_costs as costs_of_every_block
from vggrpo.planning.dry_run import dry_run
from vggrpo.policy.adapter import adapter_parameters, add_adapter
from vggrpo.policy.backbone import predict_velocity
from vggrpo.presets import get_preset
from vggrpo.rewards import judge
from vggrpo.runtime.allocation import peak_allocation_mb
from vggrpo.types import SceneGeometry

SHAPE = (16, 3, 8, 8)
TOKENS = 5


def small(blocks: int) -> Architecture:
    """tiny-debug's transformer with some blocks."""
    architecture = architecture_of(get_preset("tiny-debug"))
    sizes = architecture.sizes
    return replace(architecture, sizes=replace(sizes, transformer={**sizes.transformer, "num_layers": blocks}))


def config(**changed: object) -> GrpoConfig:
    return replace(training_defaults("tiny-debug"), guidance=1.0, **changed)


def test_operations_are_counted_as_torch_and_a_formula_count_them() -> None:
    """2 multiply-adds for each weight and token; attention 4 n m d; text is read by two layers of each block."""
    architecture = small(2)
    transformer = architecture.build_transformer().eval()
    latents, fraction = torch.randn(1, *SHAPE), torch.full((1, 1), 0.5)
    text = torch.randn(1, TOKENS, architecture.sizes.transformer["text_dim"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        predict_velocity(transformer, latents, fraction, text)
    costs = policy_costs(
        architecture, config(micro_batch=1, group_size=2), shape=SHAPE, tokens=TOKENS, dtype=torch.float32
    )
    adapter = 0.0
    with torch.device("meta"):
        adapted = architecture.build_transformer()
        add_adapter(adapted, config().lora_settings, seed=0)
    tokens = SHAPE[1] * (SHAPE[2] // 2) * (SHAPE[3] // 2)
    for name, parameter in adapter_parameters(adapted).items():
        reads_text = "attn2.to_k" in name or "attn2.to_v" in name
        adapter += 2.0 * parameter.numel() * (TOKENS if reads_text else tokens)
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    attention = 2 * 4.0 * width * tokens * (tokens + TOKENS)
    # Torch's counter knows no fused attention on a CPU.
    assert costs.rollout_step.flops - adapter - attention == counter.get_total_flops()
    products = sum(
        2.0 * p.numel() * (TOKENS if "attn2.to_k" in n or "attn2.to_v" in n else tokens)
        for n, p in transformer.named_parameters()
        if p.ndim == 2 and n.startswith("blocks")
    )
    # The rest are embeddings of patches, text and time, which are small in a real model and less so in this one.
    assert products < counter.get_total_flops() < 1.3 * products


def test_blocks_are_a_straight_line() -> None:
    """Two short runs and the line through them give what running every block gives."""
    settings = config(micro_batch=2, gradient_checkpointing=True, kl="none")
    line = policy_costs(small(5), settings, shape=SHAPE, tokens=TOKENS, dtype=torch.float32)
    every = costs_of_every_block(small(5), settings, shape=SHAPE, tokens=TOKENS, dtype=torch.float32)
    assert line == every
    assert line.weights_bytes == bytes_of(small(5).build_transformer())


def real_peak(work: Callable[[], object]) -> float:
    return peak_allocation_mb(work, device=torch.device("cpu")) * 2**20


@pytest.mark.parametrize("checkpointing", [True, False])
def test_memory_of_a_training_step_is_what_it_takes(checkpointing: bool) -> None:
    """The same forward and backward pass, on meta and with real numbers; a CPU's kernels differ a little."""
    architecture = small(4)

    def step(device: torch.device) -> Callable[[], object]:
        with device:
            transformer = architecture.build_transformer().eval().requires_grad_(requires_grad=False)
            add_adapter(transformer, config().lora_settings, seed=0)
            text = torch.zeros(2, TOKENS, architecture.sizes.transformer["text_dim"])
            latents, fraction = torch.zeros(2, *SHAPE), torch.full((2, 1), 0.5)
        if checkpointing:
            transformer.enable_gradient_checkpointing()

        def work() -> object:
            torch.autograd.backward(predict_velocity(transformer, latents, fraction, text).square().sum())
            return [p.grad for p in adapter_parameters(transformer).values()]

        return work

    planned = dry_run(step(META)).peak_bytes
    measured = real_peak(step(torch.device("cpu")))
    assert planned == pytest.approx(measured, rel=0.15)


def test_checkpointing_and_passes_apart_take_less() -> None:
    def peak(**changed: object) -> Cost:
        settings = replace(config(micro_batch=2, **changed), guidance=4.0)
        return policy_costs(small(2), settings, shape=SHAPE, tokens=TOKENS, dtype=torch.float32).replay_step

    plain = peak(gradient_checkpointing=False)
    assert peak(gradient_checkpointing=True).peak_bytes < 0.8 * plain.peak_bytes
    assert peak(gradient_checkpointing=True).flops > 1.2 * plain.flops
    assert peak(gradient_checkpointing=False, guidance_passes="apart").flops == plain.flops


def test_attention_is_itself_again_afterwards() -> None:
    genuine = F.scaled_dot_product_attention
    query = torch.randn(1, 2, 3, 4)

    def work() -> object:
        torch.testing.assert_close(F.scaled_dot_product_attention(query, query, query), genuine(query, query, query))
        return F.scaled_dot_product_attention(query.to(META), query.to(META), query.to(META))

    assert dry_run(work).flops == 2 * 2 * 2 * 3 * 3 * 4 * 1.0
    assert F.scaled_dot_product_attention is genuine


@pytest.mark.parametrize(("videos", "frames", "side"), [(1, 5, 32), (2, 9, 48)])
def test_what_the_rewards_hold_for_each_point(videos: int, frames: int, side: int) -> None:
    depth = torch.full((videos, frames, side, side), 2.0)
    grid = torch.arange(side) + 0.5 - side / 2
    rays = torch.stack([grid.expand(side, side) / side, grid[:, None].expand(side, side) / side], dim=-1)
    camera = torch.eye(4).repeat(videos, frames, 1, 1)
    camera[:, :, 0, 3] = torch.linspace(0.0, -0.5, frames)
    points = torch.cat([rays * 2.0, torch.full((side, side, 1), 2.0)], dim=-1).repeat(videos, frames, 1, 1, 1)
    points[..., 0] -= camera[:, :, None, None, 0, 3]
    everywhere = torch.ones(videos, frames, side, side, dtype=torch.bool)
    intrinsics = torch.tensor([[side, 0.0, side / 2], [0.0, side, side / 2], [0.0, 0.0, 1.0]])
    scene = SceneGeometry(
        camera_from_world=camera,
        intrinsics=intrinsics.repeat(videos, frames, 1, 1),
        depth=depth,
        points=points,
        scene_flow=torch.zeros_like(points),
        confidence=depth,
        valid=everywhere,
        flow_valid=everywhere,
    )
    assert real_peak(lambda: judge(scene)) == pytest.approx(depth.numel() * JUDGE_BYTES_A_POINT, rel=0.02)
