"""Training and held-out prompts never meet, and the order is a function of seed and group number."""

from dataclasses import replace
from pathlib import Path

import pytest

from vggrpo.grpo.defaults import TRAINING_DEFAULTS, training_defaults
from vggrpo.grpo.prompts import PromptSets, choose_prompts, read_prompts
from vggrpo.presets import PRESETS
from vggrpo.runtime.errors import UserError
from vggrpo.worlds import vocabulary


def choose(training: Path | None = None, held_out: Path | None = None, *, clips: int = 4) -> PromptSets:
    return choose_prompts(
        training_file=training, evaluation_file=held_out, training_captions=50, evaluation_clips=clips
    )


@pytest.fixture
def write(tmp_path: Path):
    def make(*lines: str, name: str = "prompts.txt") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


def test_captions_of_both_sets_are_the_worlds_and_disjoint() -> None:
    sets = choose()
    assert (len(sets.training), len(sets.evaluation)) == (50, 4)
    assert len(set(sets.training) | set(sets.evaluation)) == 54
    assert not any(vocabulary.unknown_words(prompt) for prompt in (*sets.training, *sets.evaluation))
    assert choose() == sets


def test_a_fifth_of_a_file_is_held_out(write) -> None:
    sets = choose(write(*(f"prompt {n}" for n in range(15)), "", "# a remark", "prompt 3"))
    assert (len(sets.training), len(sets.evaluation)) == (12, 3)
    assert not set(sets.training) & set(sets.evaluation)


def test_of_a_long_file_no_more_is_held_out_than_is_evaluated(write) -> None:
    sets = choose(write(*(f"prompt {n}" for n in range(100))), clips=4)
    assert (len(sets.training), len(sets.evaluation)) == (96, 4)


def test_a_short_file_is_evaluated_on_captions(write) -> None:
    first_caption = choose().evaluation[0]
    sets = choose(write("one", first_caption))
    assert sets.training == ("one", first_caption)
    assert first_caption not in sets.evaluation
    assert len(sets.evaluation) == 4


def test_a_file_of_held_out_prompts(write) -> None:
    sets = choose(write("a", "b", "c", "d", "e"), write("x", "y", name="held_out.txt"))
    assert sets == PromptSets(training=("a", "b", "c", "d", "e"), evaluation=("x", "y"))
    with pytest.raises(UserError, match="both trained on and held out: 'b'"):
        choose(write("a", "b"), write("b", name="held_out.txt"))


def test_files_that_hold_no_prompts(write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_prompts(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="holds no prompt"):
        read_prompts(write("", "# nothing"))
    (tmp_path / "video.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="UTF-8"):
        read_prompts(tmp_path / "video.mp4")


def test_every_prompt_comes_once_a_round_in_another_order() -> None:
    sets = PromptSets(training=tuple("abcdefgh"), evaluation=("x",))
    rounds = [[sets.of_group(8 * turn + n, seed=1) for n in range(8)] for turn in range(2)]
    assert [sorted(one) for one in rounds] == [list("abcdefgh")] * 2
    assert rounds[0] != rounds[1]
    assert rounds[0] != [sets.of_group(n, seed=2) for n in range(8)]
    assert rounds[0] == [sets.of_group(n, seed=1) for n in range(8)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_settings_that_hold_together(preset: str) -> None:
    config = training_defaults(preset)
    assert config.preset == preset
    parts = (config.rollout_settings, config.surrogate_settings, config.advantage_settings, config.lora_settings)
    assert all(parts)
    assert replace(config, group_size=2).group_size == 2


def test_the_table_names_presets_only() -> None:
    assert set(TRAINING_DEFAULTS) <= set(PRESETS)
