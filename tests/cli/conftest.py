"""Running the command line in this process: what a person would see, and the exit code."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from vggrpo.cli import main


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Exit code and both outputs."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a user's mistake; anything else fails the test."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert re.fullmatch(r"error: [^\n]+\n", self.err), self.err
        return self.err


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Shown]:
    """``run("generate", "--seed", 1)``."""

    def call(*arguments: object) -> Shown:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        shown = capfd.readouterr()
        return Shown(code=code, out=shown.out, err=shown.err)

    return call
