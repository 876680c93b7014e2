"""What a prompt promises that a judge can check: its camera move and its objects."""

from dataclasses import dataclass
from itertools import pairwise

from vggrpo.worlds import vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptClaims:
    """``camera_move`` is None where the prompt names none; ``objects`` are (colour, shape), each once, in order."""

    camera_move: str | None
    objects: tuple[tuple[str, str], ...]


def read_claims(prompt: str) -> PromptClaims:
    """The claims of a prompt in the world's words.

    A prompt that names two camera moves promises neither: no clip could keep both.
    """
    words = vocabulary.split_words(prompt)
    text = f" {' '.join(words)} "
    moves = [name for name, phrase in vocabulary.CAMERA_MOVES.items() if f" {phrase} " in text]
    pairs = [
        (first, second)
        for first, second in pairwise(words)
        if first in vocabulary.COLOURS and second in vocabulary.SHAPES
    ]
    return PromptClaims(camera_move=moves[0] if len(moves) == 1 else None, objects=tuple(dict.fromkeys(pairs)))
