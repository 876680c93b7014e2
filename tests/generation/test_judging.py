"""Which judges a preset gets. Oracle: the weights themselves; a judge that judges its own reward is refused."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from vggrpo.evaluation.object_judge import JudgeConfig, ObjectJudge
from vggrpo.generation.judging import JudgeChoice, check_judges, load_judges
from vggrpo.generation.models import Models, load_models
from vggrpo.latent_geometry.foundation.registry import build_geometry, save_geometry
from vggrpo.presets import get_preset
from vggrpo.runtime.errors import UserError
from vggrpo.runtime.weights_sketch import weights_sketch

DEBUG = get_preset("tiny-debug")
TINY = get_preset("tiny")
WAN = get_preset("wan2.1-t2v-1.3b")


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(DEBUG)


def test_the_debug_judge_has_other_weights_than_phi(models: Models) -> None:
    loaded = load_judges(DEBUG, JudgeChoice(), models=models)
    own = weights_sketch(cast(nn.Module, models.geometry))
    assert loaded.description["geometry_weights"] != own[:12]
    assert loaded.description["objects"] is None
    again = load_judges(DEBUG, JudgeChoice(), models=models)
    assert again.description == loaded.description


def test_a_judge_of_ones_own_reward_is_refused(models: Models, tmp_path: Path) -> None:
    save_geometry(models.geometry, tmp_path / "phi")
    with pytest.raises(UserError, match="cannot judge itself"):
        load_judges(DEBUG, JudgeChoice(weights=tmp_path / "phi"), models=models)
    other = build_geometry("any4d", random_seed=5, size="debug")
    save_geometry(other, tmp_path / "other")
    loaded = load_judges(DEBUG, JudgeChoice(weights=tmp_path / "other"), models=models)
    assert loaded.description["geometry_weights"] == weights_sketch(cast(nn.Module, other))[:12]


def test_a_judge_of_objects_is_loaded_from_its_folder(models: Models, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ObjectJudge(JudgeConfig(width=8)).save(tmp_path / "objects")
    loaded = load_judges(DEBUG, JudgeChoice(objects=tmp_path / "objects"), models=models)
    assert isinstance(loaded.judges.objects, ObjectJudge)
    assert loaded.description["objects"] == weights_sketch(loaded.judges.objects)[:12]


def test_the_embedded_model_is_judged_by_what_ships_with_it(tmp_path: Path) -> None:
    assert TINY.folders is not None
    folders = replace(TINY.folders, geometry_judge=tmp_path / "judge")
    preset = replace(TINY, folders=folders)
    with pytest.raises(UserError, match="pretrain geometry --judge"):
        check_judges(preset, JudgeChoice())
    (tmp_path / "judge").mkdir()
    check_judges(preset, JudgeChoice())


def test_a_released_model_is_judged_by_another_geometry_model() -> None:
    check_judges(WAN, JudgeChoice())
    check_judges(WAN, JudgeChoice(), reward_geometry="vggt")
    for choice, rewards in ((JudgeChoice(geometry="any4d"), None), (JudgeChoice(geometry="vggt"), "vggt")):
        with pytest.raises(UserError, match="no independent judge"):
            check_judges(WAN, choice, reward_geometry=rewards)


def test_what_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'vggt'"):
        check_judges(WAN, JudgeChoice(geometry="vgt"))
    with pytest.raises(UserError, match=r"--judge-weights .*nowhere does not exist"):
        check_judges(WAN, JudgeChoice(weights=tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"--judge .*nowhere does not exist"):
        check_judges(DEBUG, JudgeChoice(objects=tmp_path / "nowhere"))
