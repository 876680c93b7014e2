"""What contestants are asked. Oracles: the world itself says what moves; no training can have drawn a prompt."""

import pytest

from vggrpo.evaluation.contest.question import (
    FIRST_CONTEST_WORLD,
    Prompt,
    Question,
    Take,
    given_prompts,
    held_out_worlds,
)
from vggrpo.grpo.config import GrpoConfig
from vggrpo.grpo.prompts import choose_prompts
from vggrpo.runtime.errors import UserError
from vggrpo.worlds import sample_scene


@pytest.fixture(scope="module")
def prompts() -> tuple[Prompt, ...]:
    return held_out_worlds(32, seed=0)


def test_half_of_the_worlds_move_and_the_others_do_not(prompts: tuple[Prompt, ...]) -> None:
    assert [prompt.kind for prompt in prompts] == ["static", "dynamic"] * 16
    for prompt in prompts:
        assert prompt.world is not None
        scene = sample_scene(prompt.world)
        assert scene.caption == prompt.text
        assert any(item.words.motion != "still" for item in scene.objects) == (prompt.kind == "dynamic")


def test_no_training_has_seen_a_prompt(prompts: tuple[Prompt, ...]) -> None:
    config = GrpoConfig()
    sets = choose_prompts(
        training_file=None,
        evaluation_file=None,
        training_captions=config.training_captions,
        evaluation_clips=config.evaluation_clips,
    )
    assert not {prompt.text for prompt in prompts} & {*sets.training, *sets.evaluation}
    assert len({prompt.text for prompt in prompts}) == 32


def test_more_prompts_go_on_where_fewer_end_and_seeds_differ(prompts: tuple[Prompt, ...]) -> None:
    assert held_out_worlds(7, seed=0) == prompts[:7]
    other = held_out_worlds(8, seed=1)
    assert not {prompt.world for prompt in other} & {prompt.world for prompt in prompts}
    assert min(prompt.world or 0 for prompt in prompts) >= FIRST_CONTEST_WORLD


def test_takes_and_their_noise() -> None:
    few = Question(prompts=held_out_worlds(2, seed=0), repeats=2)
    many = Question(prompts=held_out_worlds(4, seed=0), repeats=3)
    assert few.takes() == tuple(Take(prompt=p, repeat=r) for p in (0, 1) for r in (0, 1))
    seeds = [many.noise_seed(take) for take in many.takes()]
    assert len(set(seeds)) == 12
    assert all(few.noise_seed(take) == many.noise_seed(take) for take in few.takes())


def test_groups() -> None:
    both = Question(prompts=held_out_worlds(4, seed=0), repeats=1)
    assert both.groups() == ("all", "static", "dynamic")
    assert both.indices("dynamic") == (1, 3)
    one = Question(prompts=given_prompts(static=("a", "b"), dynamic=()), repeats=1)
    assert one.groups() == ("static",)
    mixed = given_prompts(static=("a", "b", "c"), dynamic=("d",))
    assert [prompt.text for prompt in mixed] == ["a", "d", "b", "c"]


@pytest.mark.parametrize(
    ("count", "seed", "words"), [(0, 0, "0 prompts"), (5000, 0, "5000 prompts"), (2, -1, "-1"), (2, 90, "90")]
)
def test_what_cannot_be_asked(count: int, seed: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        held_out_worlds(count, seed=seed)


def test_a_question_without_sense() -> None:
    prompt = Prompt(text="a", kind="static")
    for prompts, repeats, words in [((), 1, "no prompt"), ((prompt,), 0, "0 videos"), ((prompt, prompt), 1, "twice")]:
        with pytest.raises(UserError, match=words):
            Question(prompts=prompts, repeats=repeats)
