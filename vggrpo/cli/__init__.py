"""The command line, ``python -m vggrpo``. Nothing heavy is imported before a command needs it."""

from vggrpo.cli.main import main

__all__ = ["main"]
