"""Errors that are the user's to fix: one clear line that says what to do, exit code 2."""


class UserError(ValueError):
    """A mistake in what the user gave. The message is one line that names the thing and the way out."""


class Cancelled(Exception):
    """The user asked to stop; nothing is left behind."""
