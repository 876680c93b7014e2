"""``plan``, ``train``'s refusal, and ``bench`` at true or shrunk sizes, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vggrpo.cli import planning
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import training_defaults
from vggrpo.planning.machine import described_machine
from vggrpo.planning.plan import PhasePlan, Plan, Planner
from vggrpo.presets import get_preset


def test_plan_as_json_and_as_a_table(run: Callable) -> None:
    shown = run("plan", "--preset", "tiny-debug", "--memory-gib", 24, "--tflops", 100, "--group-size", 6, "--json")
    assert shown.code == 0, shown.err
    result = json.loads(shown.out.splitlines()[-1])
    assert (result["preset"], result["group_size"], result["fits"]) == ("tiny-debug", 6, True)
    assert {"embed", "rollout", "guard", "reward", "update", "evaluate", "samples"} == set(result["phases"])
    assert all(phase["peak_gib"] >= phase["resident_gib"] for phase in result["phases"].values())
    assert result["needed_gib"] <= result["device_gib"] == 24.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory-gib", 0), "--memory-gib is 0"),
        (("--tflops", -1), "--tflops is -1"),
        (("--processes", 3), "cannot be shared evenly by 3"),
        (("--preset", "wan2.1-t2v-1.3b", "--height", 250), "multiple of 16"),
    ],
)
def test_plans_that_cannot_be(run: Callable, options: tuple[object, ...], words: str) -> None:
    assert words in run("plan", *(("--preset", "tiny-debug") if "--preset" not in options else ()), *options).complaint


def test_train_refuses_what_cannot_fit_before_anything_is_written(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned in the same way (tests/planning plans Wan for real); here every plan is one phase of 10 GiB."""
    phase = PhasePlan(name="embed", resident_bytes=0.0, extra_bytes=10.0 * 2**30)

    def plan(planner: Planner, config: GrpoConfig) -> Plan:
        preset = get_preset(config.preset)
        return Plan(config=config, preset=preset, machine=planner.machine, processes=1, weights={}, phases=(phase,))

    monkeypatch.setattr(Planner, "plan", plan)
    monkeypatch.setattr("vggrpo.planning.machine.this_machine", lambda: described_machine(memory_gib=6.0, tflops=None))
    complaint = run("train", "--preset", "wan2.1-t2v-1.3b", "--offline", "--out", tmp_path / "run").complaint
    assert "embed phase of this training needs" in complaint
    assert "a GPU with 6 GiB" in complaint
    assert "--shard-base" in complaint
    assert list(tmp_path.iterdir()) == []


def test_small_presets_are_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vggrpo.planning.machine.this_machine", lambda: pytest.fail("it was planned"))
    planning.require_plan(training_defaults("tiny"))


def test_bench_refuses_true_sizes_on_a_cpu(run: Callable) -> None:
    complaint = run("bench", "--preset", "wan2.1-t2v-1.3b", "--random-weights").complaint
    assert "there is no GPU here" in complaint
    assert "--scale 8" in complaint
    assert "--scale shrinks" in run("bench", "--scale", 4).complaint


def test_bench_measures_every_phase_of_a_shrunk_model(run: Callable) -> None:
    shown = run(
        "bench", "--preset", "wan2.1-t2v-1.3b", "--random-weights", "--scale", 15, "--micro-batch", 1, "--repeats", 1,
        "--steps", 2, "--json",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    result = json.loads(shown.out.splitlines()[-1])
    assert result["matrix_tflops"] > 0
    (found,) = result["sizes"].values()
    assert set(found["phases"]) == {"rollout", "update", "latent reward", "rgb reward"}
    for phase in found["phases"].values():
        assert phase["seconds"] > 0
        assert phase["tensors_gib"] > 0
        assert 0 < phase["share_of_matrix_rate"] < 1.5
    assert {"seconds", "tensors", "added_memory"} == set(found["latent_over_rgb"])
