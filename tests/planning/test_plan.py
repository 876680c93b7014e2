"""Plans: what fits, what is named when it does not, and that the goal holds: a 24 GB card trains Wan 2.1."""

from dataclasses import replace

import pytest
import torch

from vggrpo.generation.architecture import architecture_of
from vggrpo.generation.models import load_models
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.latent_geometry.foundation.stitchable import pixels_at_once
from vggrpo.planning.costs import latent_reader_costs
from vggrpo.planning.fitting import remedy_of, require_fits
from vggrpo.planning.machine import described_machine, measure_matrix_rate, this_machine
from vggrpo.planning.plan import PhasePlan, Plan, Planner
from vggrpo.presets import get_preset
from vggrpo.runtime.allocation import peak_allocation_mb, weights_mb
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents

GIB = float(2**30)
CPU_SCRATCH = 4.0
"""A CPU's convolutions unfold their input: what a plan leaves out, and what a GPU has as workspaces."""
CARD = described_machine(memory_gib=24.0, tflops=100.0)
WAN = training_defaults("wan2.1-t2v-1.3b")


@pytest.fixture(scope="module")
def goal() -> Plan:
    return Planner(CARD).plan(WAN)


def test_a_24_gb_card_trains_wan(goal: Plan) -> None:
    """240 × 416 × 33, K = 8: what the preset trains at unless told otherwise."""
    assert (goal.preset.height, goal.preset.width, goal.preset.num_frames) == (240, 416, 33)
    assert goal.config.group_size == 8
    assert goal.fits
    assert goal.needed_bytes < 24 * GIB
    # Reference flow_grpo.md 7: 1.42 billion parameters in bf16 (a few in fp32), adapter of 23.6 million.
    assert goal.weights["transformer"] / 1e9 == pytest.approx(2.85, abs=0.05)
    assert goal.weights["adapter, average and AdamW"] == 23_592_960 * 4 * 4


def test_operations_agree_with_the_reference(goal: Plan) -> None:
    """2 × parameters × tokens and 4 n² d attention a layer, a tenth off for what reads the text or the time only."""
    tokens, width, layers = 3510, 1536, 30
    forward = 2 * 1.42e9 * tokens + layers * 4 * tokens**2 * width
    videos = goal.config.groups * goal.config.group_size
    assert goal.phase("rollout").flops == pytest.approx(videos * goal.config.steps * forward, rel=0.15)
    # A reference pass, and a replay of three passes: forward, forward again, and back without weight gradients.
    window = videos * goal.config.window_size
    assert 3.0 < goal.phase("update").flops / (window * forward) < 5.0
    assert goal.seconds(goal.phase("rollout")) == goal.phase("rollout").flops / 100e12


def test_memory_of_tiny_debug_is_what_it_takes() -> None:
    """Weights to the byte; peaks never more than what the CPU takes, which adds its kernels' scratch memory."""
    config = training_defaults("tiny-debug")
    plan = Planner(this_machine(device=torch.device("cpu"))).plan(config)
    models = load_models(get_preset("tiny-debug"))
    assert plan.weights["transformer"] == weights_mb(models.transformer) * 2**20
    assert plan.weights["latent geometry model"] == weights_mb(models.latent_geometry) * 2**20
    assert plan.weights["VAE"] == weights_mb(models.vae.model) * 2**20
    latents = Latents(tensor=torch.randn(config.reward_batch, *get_preset("tiny-debug").latent_shape))
    with torch.no_grad():
        reading = peak_allocation_mb(lambda: models.latent_geometry(latents), device=torch.device("cpu")) * 2**20
        decoding = peak_allocation_mb(
            lambda: models.vae.decode_normalised(Latents(tensor=latents.tensor[:1])), device=torch.device("cpu")
        )
    architecture = architecture_of(get_preset("tiny-debug"))
    shape = get_preset("tiny-debug").latent_shape
    # As many frames' dense maps at once as a CPU makes; the plan itself takes a GPU's number, which needs no less.
    dense_frames = pixels_at_once(torch.device("cpu")) // (get_preset("tiny-debug").height ** 2)
    costs = latent_reader_costs(
        architecture, shape=shape, videos=config.reward_batch, dense_frames=dense_frames, dtype=torch.float32
    )
    assert 0.95 * costs.read.peak_bytes < reading < CPU_SCRATCH * costs.read.peak_bytes
    decoded = plan.phase("samples").extra_bytes
    assert 0.95 * decoded < decoding * 2**20 < CPU_SCRATCH * decoded


class Ruler(Planner):
    """A planner whose phases take what a simple rule says."""

    def __init__(self, gib: float) -> None:
        machine = described_machine(memory_gib=gib, tflops=None)
        super().__init__(replace(machine, context_bytes=0.0, rounding=1.0))
        self.asked = 0

    def plan(self, config: GrpoConfig) -> Plan:
        self.asked += 1
        update = config.micro_batch * (1.0 if config.gradient_checkpointing else 10.0)
        reward = config.reward_batch * (1.0 if config.reward_space == "latent" else 3.0)
        phases = tuple(
            PhasePlan(name=name, resident_bytes=GIB, extra_bytes=size * GIB)
            for name, size in (("update", update), ("reward", reward))
        )
        return Plan(
            config=config, preset=get_preset("tiny"), machine=self.machine, processes=1, weights={}, phases=phases
        )


@pytest.mark.parametrize(
    ("gib", "changed", "remedy"),
    [
        (30.0, {}, "with 9.0 GiB, if you give --gradient-checkpointing."),
        (5.0, {"gradient_checkpointing": True}, "5.0 GiB, if you give --micro-batch 4 --reward-batch 4."),
        (2.5, {"gradient_checkpointing": True}, "2.0 GiB, if you give --micro-batch 1 --reward-batch 1."),
        (3.0, {"micro_batch": 1, "reward_space": "rgb"}, "--reward-batch 1"),
        (1.5, {}, "No memory setting makes it fit: give smaller --height"),
    ],
)
def test_what_does_not_fit_comes_with_what_would(gib: float, changed: dict[str, object], remedy: str) -> None:
    config = replace(training_defaults("tiny"), micro_batch=8, gradient_checkpointing=False)
    ruler = Ruler(gib)
    said = remedy_of(ruler, ruler.plan(replace(config, **changed)))
    assert remedy in said
    assert ruler.asked < 20


def test_refusal_names_phase_sizes_and_setting() -> None:
    config = replace(training_defaults("tiny"), micro_batch=8, gradient_checkpointing=False)
    with pytest.raises(UserError, match=r"update phase .* needs 81\.0 GiB, and a GPU with 30 GiB has 30\.0.*--grad"):
        require_fits(Ruler(30.0), config)
    assert require_fits(Ruler(100.0), config).fits


def test_sharing_out_the_base_divides_it() -> None:
    config = replace(training_defaults("tiny-debug"), shard_base=True)
    machine = this_machine(device=torch.device("cpu"))
    alone, shared = (Planner(machine, processes=count).plan(config) for count in (1, 2))
    saved = alone.phase("update").resident_bytes - shared.phase("update").resident_bytes
    assert saved == alone.weights["transformer"] / 2
    assert shared.phase("rollout").flops == alone.phase("rollout").flops / 2


@pytest.mark.parametrize(
    ("changed", "phases"),
    [
        ({"objective": "sft"}, ["embed", "update", "evaluate", "samples", "clips"]),
        ({"objective": "dpo", "pairs": 2}, ["embed", "rollout", "rank", "update", "evaluate", "samples"]),
    ],
)
def test_other_objectives_have_phases_of_their_own(changed: dict[str, object], phases: list[str]) -> None:
    config = replace(training_defaults("tiny-debug"), **changed)
    planner = Planner(CARD)
    plan = planner.plan(config)
    assert [phase.name for phase in plan.phases] == phases
    assert all(phase.peak_bytes > phase.resident_bytes for phase in plan.phases)
    grpo = planner.plan(training_defaults("tiny-debug"))
    if config.objective == "sft":
        # One forward and backward pass of a clip, where a replay guides (two passes) and asks the base as well.
        assert plan.phase("update").flops < 0.6 * grpo.phase("update").flops
        return
    # As many videos; a pair costs two of them, once more for the reference.
    assert plan.phase("rollout").flops == pytest.approx(grpo.phase("rollout").flops)
    twice = planner.plan(replace(config, noise_draws=2 * config.noise_draws))
    assert twice.phase("update").flops == pytest.approx(2 * plan.phase("update").flops)
    seen = planner.plan(replace(config, preference="reprojection"))
    assert seen.phase("rank").flops > plan.phase("rank").flops
    assert (
        seen.phase("update").resident_bytes > plan.phase("update").resident_bytes > grpo.phase("update").resident_bytes
    )


def test_a_machine_multiplies_matrices() -> None:
    rate = measure_matrix_rate(torch.device("cpu"), torch.float32, size=64, seconds=0.01)
    assert 1e6 < rate < 1e15
    assert this_machine(device=torch.device("cpu")).memory_bytes > GIB


def test_architecture_of_a_released_model_has_its_sizes() -> None:
    assert architecture_of(get_preset("wan2.1-t2v-1.3b")).sizes.transformer["num_layers"] == 30
