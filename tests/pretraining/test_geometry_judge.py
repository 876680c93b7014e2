"""``pretrain geometry --judge``: another model than the one that it is to judge, in everything but its classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vggrpo.cli.commands import PretrainGeometry
from vggrpo.cli.training import run
from vggrpo.latent_geometry.foundation.any4d import Any4D
from vggrpo.latent_geometry.foundation.registry import load_geometry
from vggrpo.pretraining import geometry
from vggrpo.pretraining.data import ClipCache
from vggrpo.pretraining.geometry import DEBUG_TRAINING, JUDGE_TRAINING, TINY_TRAINING, GeometryTraining, draw_batch
from vggrpo.runtime.training import Step, TrainingResult
from vggrpo.worlds import FIRST_TRAINING_SEED

MOST_MEGABYTES = 4.2


def worlds_of(training: GeometryTraining) -> set[int]:
    return set(range(training.first_clip, training.first_clip + training.num_clips))


def test_the_judge_shares_neither_worlds_nor_sizes_nor_random_numbers_with_phi() -> None:
    assert not worlds_of(JUDGE_TRAINING) & worlds_of(TINY_TRAINING)
    assert min(worlds_of(JUDGE_TRAINING)) >= FIRST_TRAINING_SEED
    sizes = ("encoder_dim", "encoder_depth", "sharing_dim", "sharing_depth", "dpt_features")
    for name in sizes:
        assert getattr(JUDGE_TRAINING.model, name) < getattr(TINY_TRAINING.model, name)
    with torch.device("meta"):
        model = Any4D(JUDGE_TRAINING.model)
    assert 2e-6 * sum(parameter.numel() for parameter in model.parameters()) < MOST_MEGABYTES


def test_batches_come_from_the_worlds_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noting(seed: int) -> object:
        asked.append(seed)
        return sample(seed)

    sample = geometry.sample_scene
    monkeypatch.setattr(geometry, "sample_scene", noting)
    training = replace(DEBUG_TRAINING, first_clip=FIRST_TRAINING_SEED + 77)
    for index in range(3):
        draw_batch(Step.of(index, training.loop), training, clips=ClipCache(folder=tmp_path, size=32))
    assert asked
    assert set(asked) <= worlds_of(training)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_command_trains_the_judge_with_other_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    trained: list[tuple[GeometryTraining, Path]] = []

    def instead(training: GeometryTraining, *, out: Path, resume: bool) -> TrainingResult:
        trained.append((training, out))
        return TrainingResult(steps_done=training.loop.steps, finished=True, seconds=1.0)

    monkeypatch.setattr(geometry, "pretrain_geometry", instead)
    monkeypatch.chdir(tmp_path)
    for judge in (False, True):
        run(PretrainGeometry(judge=judge, seed=seed, steps=5))
    (phi, phi_out), (judge_training, judge_out) = trained
    assert phi == replace(TINY_TRAINING, loop=replace(TINY_TRAINING.loop, seed=seed, steps=5))
    assert (phi_out, judge_out) == (Path("runs/geometry"), Path("runs/geometry-judge"))
    assert judge_training.loop.seed != phi.loop.seed
    assert replace(judge_training, loop=JUDGE_TRAINING.loop) == JUDGE_TRAINING
    assert "first_clip: 1010000" in (tmp_path / "runs/geometry-judge/config.yaml").read_text(encoding="utf-8")


def test_a_short_training_leaves_a_judge_that_loads(tmp_path: Path) -> None:
    training = replace(
        JUDGE_TRAINING, loop=replace(DEBUG_TRAINING.loop, steps=1), num_clips=2, image_size=32, frame_budget=4,
        whole_clips=1, whole_dense=2,
    )  # fmt: skip
    assert geometry.pretrain_geometry(training, out=tmp_path / "run", cache=tmp_path / "clips").finished
    judge = load_geometry("any4d", tmp_path / "run" / "model")
    scene = judge.geometry(torch.rand(1, 3, 3, 32, 32))
    assert scene.depth.shape == (1, 3, 32, 32)
    assert bool(scene.depth.isfinite().all())
