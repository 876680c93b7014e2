"""A parsed command as the line that gives it again: what a result file says it was made by."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from vggrpo.cli.options import Command

PROGRAM = "python -m vggrpo"
HIDDEN = ("out", "json", "what")
"""Where results go and how they are shown decides nothing; ``what`` is one of the words."""


def shown_command(command: Command, *, words: str, leave_out: Collection[str] = HIDDEN) -> str:
    """``python -m vggrpo`` with ``words`` ("evaluate robustness") and every option that is not at its default.

    A path is shown relative to the working directory; of one outside it only the name, as a result file is public.
    """
    parts = [PROGRAM, words]
    for option in fields(command):
        value = getattr(command, option.name)
        default = option.default_factory() if option.default_factory is not MISSING else option.default
        if option.name in leave_out or value == default:
            continue
        parts += [f"--{option.name.replace('_', '-')}", *_words(value)]
    return " ".join(parts)


def _words(value: object) -> list[str]:
    """What follows an option's name; a switch has nothing."""
    if value is True:
        return []
    if isinstance(value, Mapping):
        return [word for key, item in value.items() for word in (*_words(key), *_words(item))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [word for item in value for word in _words(item)]
    if isinstance(value, float):
        return [f"{value:g}"]
    return [shlex.quote(_public(str(value)))]


def _public(text: str) -> str:
    """``text`` (a path, or NAME=PATH) without the folders above the working directory."""
    name, equals, rest = text.rpartition("=")
    path = Path(rest)
    if not path.is_absolute():
        return text
    here = Path.cwd()
    inside = path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name
    return f"{name}{equals}{inside}"
