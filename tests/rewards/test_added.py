"""Rewards of one's own: found in a file, computed, written, and refused in one line when they cannot be used."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.rewards.analytic import make_scene, truck_path
from vggrpo.geometry import so3
from vggrpo.grpo.reward_space import LatentRewards
from vggrpo.rewards import added, judge, load_reward_file, reward_names
from vggrpo.runtime.errors import UserError
from vggrpo.types import Latents, SceneGeometry

EXAMPLE = Path(__file__).parents[2] / "examples" / "level_horizon.py"


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(added, "_added", {})
    known = set(added.sys.modules)
    yield
    for name in set(added.sys.modules) - known:
        if name.startswith("vggrpo_reward_"):
            del added.sys.modules[name]


def level_scene() -> SceneGeometry:
    return make_scene(truck_path(), dtype=torch.float32)


def rolled(scene: SceneGeometry, *, angle: float) -> SceneGeometry:
    """Every camera but the first turned about its viewing axis."""
    turn = torch.eye(4)
    turn[:3, :3] = so3.exp(torch.tensor([0.0, 0.0, angle]))
    cameras = scene.camera_from_world.clone()
    cameras[:, 1:] = turn @ cameras[:, 1:]
    return replace(scene, camera_from_world=cameras)


def test_the_example_measures_roll() -> None:
    load_reward_file(EXAMPLE)
    assert reward_names()[-1] == "level_horizon"
    level = level_scene()
    frames = level.num_frames
    angle = 0.3
    term = judge(rolled(level, angle=angle)).terms["level_horizon"]
    expected = torch.full((1, frames), 1 - math.sin(angle))
    expected[:, 0] = 1.0
    torch.testing.assert_close(term.per_frame, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(term.value, expected.mean(1), rtol=0, atol=1e-5)
    assert judge(level).to_json()["level_horizon"]["value"] == pytest.approx(1.0, abs=1e-6)  # type: ignore[index]


def test_training_scores_it_beside_the_others() -> None:
    load_reward_file(EXAMPLE)
    rewards = LatentRewards(latent_geometry=lambda _: rolled(level_scene(), angle=0.2))
    score = rewards.score(Latents(tensor=torch.zeros(1, 1, 1, 1, 1)))
    assert tuple(score)[:4] == reward_names()
    assert 0.8 < float(score["level_horizon"]) < 1.0


def test_a_file_is_run_once(tmp_path: Path) -> None:
    load_reward_file(EXAMPLE)
    load_reward_file(EXAMPLE)
    assert reward_names().count("level_horizon") == 1


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\n", "adds no reward"),
        ("raise ValueError('no luck')\n", "cannot be run (ValueError: no luck)"),
        (
            "from vggrpo.rewards import add_reward\n@add_reward\ndef half(scene):\n    return 0\nraise OSError('x')\n",
            "cannot be run (OSError: x)",
        ),
        ("def broken(:\n", "cannot be run (SyntaxError"),
        (
            "from vggrpo.rewards import add_reward\n@add_reward\ndef motion_smoothness(scene):\n    return 0\n",
            "give its function another name",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, source: str, complaint: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UserError, match=re.escape(complaint)):
        load_reward_file(file)
    assert reward_names() == added.BUILT_IN


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Python file"):
        load_reward_file(tmp_path / "absent.py")
    with pytest.raises(UserError, match="no Python file"):
        load_reward_file(tmp_path)


def test_a_wrong_shape_is_said_in_numbers() -> None:
    added.add_reward(mean_depth)
    with pytest.raises(UserError, match=r"shape \(1, \d+\), videos by frames, not \(1,\)"):
        judge(level_scene())


def mean_depth(scene: SceneGeometry) -> torch.Tensor:
    return scene.depth.flatten(1).mean(1)


def nothing(scene: SceneGeometry) -> torch.Tensor:
    return torch.full(scene.depth.shape[:2], torch.nan)


def test_what_judges_no_frame_is_no_number() -> None:
    added.add_reward(nothing)
    term = judge(level_scene()).terms["nothing"]
    assert bool(term.value.isnan().all())
    assert term.reasons == ("nothing could judge no frame",)
