"""What every contestant is asked: held-out prompts, and the noise that each of their videos starts from.

Prompts are captions of worlds from ``FIRST_CONTEST_WORLD`` on. Pretraining draws none of them (seeds below
``FIRST_TRAINING_SEED`` are held out), the held-out evaluation that a training watches itself by starts at world 0, and
a world whose caption a training could have drawn by default is passed over. Half of the prompts are of static worlds,
half of worlds in which an object moves: the methods that are compared need a static scene to different degrees.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vggrpo.runtime.errors import UserError
from vggrpo.worlds import FIRST_TRAINING_SEED, sample_scene

Kind = Literal["static", "dynamic"]
Group = Literal["all", "static", "dynamic"]
KINDS: tuple[Kind, ...] = ("static", "dynamic")
GROUPS: tuple[Group, ...] = ("all", "static", "dynamic")
"""Which clips a number is over."""

FIRST_CONTEST_WORLD = 100_000
WORLDS_A_SEED = 10_000
"""Worlds that one ``--seed`` may draw from."""
MOST_PROMPTS = 2048
MOST_REPEATS = 64
TRAINING_CAPTIONS = 512
"""Captions from ``FIRST_TRAINING_SEED`` on that no prompt may repeat: those that a training draws by default."""
_NOISE_A_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt; ``world`` is the seed of the world that it describes, None for a prompt of the user's."""

    text: str
    kind: Kind
    world: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One video of a prompt: both counted from 0."""

    prompt: int
    repeat: int

    @property
    def name(self) -> str:
        """As files are called."""
        return f"{self.prompt:04d}-{self.repeat:02d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """``repeats`` videos of every prompt. Raises a UserError for what cannot be asked."""

    prompts: tuple[Prompt, ...]
    repeats: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if not self.prompts:
            raise UserError("There is no prompt to compare on: give at least one.")
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise UserError(f"{self.repeats} videos of each prompt were asked for; give 1 to {MOST_REPEATS}.")
        texts = [prompt.text for prompt in self.prompts]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise UserError(f"The prompt {twice!r} is there twice: its videos would count twice.")

    def takes(self) -> tuple[Take, ...]:
        """Every video, prompt by prompt."""
        count = len(self.prompts)
        return tuple(Take(prompt=prompt, repeat=repeat) for prompt in range(count) for repeat in range(self.repeats))

    def noise_seed(self, take: Take) -> int:
        """The same for every contestant, and whatever the number of prompts and repeats."""
        return self.seed * _NOISE_A_SEED + take.prompt * MOST_REPEATS + take.repeat

    def indices(self, group: Group) -> tuple[int, ...]:
        """The prompts of a group."""
        return tuple(i for i, prompt in enumerate(self.prompts) if group in {"all", prompt.kind})

    def groups(self) -> tuple[Group, ...]:
        """Those that have prompts; "all" is left out where it would repeat another one."""
        kinds = [kind for kind in KINDS if self.indices(kind)]
        return GROUPS if len(kinds) > 1 else tuple(kinds)


def held_out_worlds(count: int, *, seed: int) -> tuple[Prompt, ...]:
    """Captions of ``count`` worlds that no training has seen: static and dynamic ones take turns, none comes twice.

    A larger ``count`` goes on where a smaller one ends. Raises a UserError for a count or a seed out of range.
    """
    most_seed = (FIRST_TRAINING_SEED - FIRST_CONTEST_WORLD) // WORLDS_A_SEED - 1
    if not 1 <= count <= MOST_PROMPTS:
        raise UserError(f"{count} prompts were asked for; give 1 to {MOST_PROMPTS}.")
    if not 0 <= seed <= most_seed:
        raise UserError(f"The seed is {seed}; give 0 to {most_seed}.")
    taken = set(_training_captions())
    first = FIRST_CONTEST_WORLD + seed * WORLDS_A_SEED
    found: dict[Kind, list[Prompt]] = {kind: [] for kind in KINDS}
    for world in range(first, first + WORLDS_A_SEED):
        prompt = _prompt_of(world)
        if prompt.text not in taken and len(found[prompt.kind]) < (count + 1) // 2:
            taken.add(prompt.text)
            found[prompt.kind].append(prompt)
        if all(len(prompts) >= (count + 1) // 2 for prompts in found.values()):
            break
    pairs = zip(found["static"], found["dynamic"], strict=True)
    return tuple(prompt for pair in pairs for prompt in pair)[:count]


def given_prompts(*, static: tuple[str, ...], dynamic: tuple[str, ...]) -> tuple[Prompt, ...]:
    """The user's own prompts; both kinds take turns, so that a run that is cut off has seen both."""
    return tuple(_in_turns({"static": static, "dynamic": dynamic}))


def _in_turns(sides: Mapping[Kind, tuple[str, ...]]) -> Iterator[Prompt]:
    for number in range(max(map(len, sides.values()))):
        for kind, texts in sides.items():
            if number < len(texts):
                yield Prompt(text=texts[number], kind=kind)


@functools.cache
def _training_captions() -> frozenset[str]:
    return frozenset(sample_scene(FIRST_TRAINING_SEED + number).caption for number in range(TRAINING_CAPTIONS))


def _prompt_of(world: int) -> Prompt:
    scene = sample_scene(world)
    kind: Kind = "dynamic" if any(item.moves for item in scene.objects) else "static"
    return Prompt(text=scene.caption, kind=kind, world=world)
