"""The words of the procedural world: what a caption can say, and therefore what the embedded model can know.

Nothing here needs torch or open3d, so the page can show the vocabulary before any model is loaded.
"""

import re
from dataclasses import dataclass
from types import MappingProxyType

COLOURS = MappingProxyType(
    {
        "red": (214, 48, 49),
        "orange": (240, 140, 30),
        "yellow": (246, 213, 60),
        "green": (58, 168, 84),
        "blue": (48, 102, 214),
        "purple": (142, 70, 182),
        "white": (238, 238, 236),
        "black": (44, 44, 50),
    }
)
"""Object colours as sRGB."""

SHAPES = ("sphere", "cube", "cylinder", "cone")

FLOOR_PATTERNS = ("checkered", "striped", "tiled", "dotted")

FLOOR_COLOURS = MappingProxyType({"grey": (150, 152, 158), "beige": (205, 180, 140), "teal": (96, 160, 158)})
"""Floor colours as sRGB; the second tone of a pattern is darker."""

CAMERA_MOVES = MappingProxyType(
    {
        "static": "the camera is static",
        "orbit left": "the camera orbits left",
        "orbit right": "the camera orbits right",
        "truck left": "the camera trucks left",
        "truck right": "the camera trucks right",
        "dolly in": "the camera dollies in",
        "dolly out": "the camera dollies out",
        "crane up": "the camera cranes up",
        "crane down": "the camera cranes down",
        "pan left": "the camera pans left",
        "pan right": "the camera pans right",
    }
)
"""Camera move → the words of the caption."""

OBJECT_MOTIONS = MappingProxyType(
    {
        "still": "",
        "slide left": "slides left",
        "slide right": "slides right",
        "hop": "hops",
        "spin": "spins",
    }
)
"""Object motion → the verb of the caption (nothing for an object that stands)."""

NUMBER_OF_OBJECTS = (1, 2)
"""Fewest and most objects of a scene."""

GRAMMAR_WORDS = ("a", "an", "and", "on", "floor", ",")
"""Words that hold a caption together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectWords:
    """What a caption says of one object."""

    colour: str
    shape: str
    motion: str = "still"

    @property
    def noun(self) -> str:
        """For example ``red sphere``."""
        return f"{self.colour} {self.shape}"


def compose_caption(
    objects: tuple[ObjectWords, ...],
    *,
    floor_colour: str,
    floor_pattern: str,
    camera_move: str,
) -> str:
    """The one sentence of a scene, for example
    ``a red sphere and a blue cube on a grey checkered floor, the red sphere hops, the camera orbits left``.
    """
    nouns = [f"{'an' if item.colour[0] in 'aeiou' else 'a'} {item.noun}" for item in objects]
    scene = f"{' and '.join(nouns)} on a {floor_colour} {floor_pattern} floor"
    motions = [f"the {item.noun} {OBJECT_MOTIONS[item.motion]}" for item in objects if item.motion != "still"]
    return ", ".join([scene, *motions, CAMERA_MOVES[camera_move]])


def split_words(text: str) -> list[str]:
    """Lower-case words and commas of a text, as the embedded tokenizer sees them (other signs are dropped)."""
    return re.findall(r"[a-z0-9'-]+|,", text.lower())


def all_words() -> tuple[str, ...]:
    """Every word that a caption can hold, sorted."""
    phrases = [*CAMERA_MOVES.values(), *OBJECT_MOTIONS.values()]
    words = {word for phrase in phrases for word in split_words(phrase)}
    words.update(COLOURS, SHAPES, FLOOR_PATTERNS, FLOOR_COLOURS, GRAMMAR_WORDS)
    return tuple(sorted(words))


def known_part(prompt: str) -> str:
    """The prompt without the words that the embedded model has never seen: their embedding would be an accident."""
    known = set(all_words())
    return " ".join(word for word in split_words(prompt) if word in known).replace(" ,", ",")


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that the embedded model has never seen, in order, each once."""
    known = set(all_words())
    return list(dict.fromkeys(word for word in split_words(prompt) if word not in known))
