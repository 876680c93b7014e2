"""The configurations of contestants and of the ablation: they are read, say their own command, and share one budget."""

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from vggrpo.cli import main
from vggrpo.cli.train_settings import starting_settings
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.defaults import TRAINING_DEFAULTS, training_defaults
from vggrpo.policy.transitions import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = {"vggrpo", "vggrpo_scene", "vggrpo_rgb", "sft", "epipolar_dpo", "videogpa_dpo"}
FILES = sorted([*(ROOT / "configs/contestants").iterdir(), *(ROOT / "configs/transitions").iterdir()])
DECIDES_WHAT_IS_LEARNT = {
    *("objective", "reward_space", "weights", "transition", "training_captions"),
    *("preference", "pairs", "pairs_from", "dpo_beta"),
}


def settings(file: Path, *words: str) -> GrpoConfig:
    return starting_settings(["train", "--config", str(file), *words])


def test_all_of_the_issue_are_there() -> None:
    assert {file.stem for file in FILES if file.parent.name == "contestants"} == CONTESTANTS
    assert {file.stem for file in FILES if file.parent.name == "transitions"} == set(TRANSITIONS)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_file_begins_with_its_title_and_its_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title, command, *_ = file.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert len(title) > 4
    place = f"{file.parent.name}/{file.stem}"
    assert command == f"# python -m vggrpo train --config configs/{place}.yaml --out runs/{place}"
    words = shlex.split(command.split(" -m vggrpo ")[1])
    assert main([*words[:1], "--config", str(file), *words[3:], "--help"]) == 0
    assert f"(default: {settings(file).objective})" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("preset", sorted(TRAINING_DEFAULTS))
def test_they_differ_from_the_preset_in_what_is_learnt_only(preset: str) -> None:
    """So the budget of videos, seeds, adapter and optimiser are the same by construction, whatever the preset."""
    own = training_defaults(preset)
    for file in FILES:
        assert set(own.differences(settings(file, "--preset", preset))) <= DECIDES_WHAT_IS_LEARNT, file.stem


def test_they_are_what_their_names_say() -> None:
    found = {file.stem: settings(file) for file in FILES}
    assert {name for name in CONTESTANTS if found[name].objective == "grpo"} == {"vggrpo", "vggrpo_scene", "vggrpo_rgb"}
    assert found["sft"].objective == "sft"
    for name, preference in {"epipolar_dpo": "epipolar", "videogpa_dpo": "reprojection"}.items():
        assert (found[name].objective, found[name].preference, found[name].pairs_from) == ("dpo", preference, "base")
    assert found["vggrpo_scene"].weights.scene_smoothness > found["vggrpo"].weights.scene_smoothness == 0.0
    assert (found["vggrpo_rgb"].reward_space, found["vggrpo"].reward_space) == ("rgb", "latent")
    assert {name: found[name].transition for name in TRANSITIONS} == {name: name for name in TRANSITIONS}
    assert {item.name for item in fields(GrpoConfig)} >= DECIDES_WHAT_IS_LEARNT
