"""Who is asking: a cookie that the page gives every browser, or Gradio's session for a client that keeps none.

Only a digest of either is ever kept, so no file of the server lets anybody pose as a visitor.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

from gradio.context import LocalContext

OWNER = "owner"
"""Everybody, where visitors are not strangers to one another."""
COOKIE = "vggrpo_visitor"
SESSION = "vggrpo.session"
"""Where ``demo.http_guard`` notes the session that a request's body names, in the request's scope."""

Visitor = Callable[[], str]
"""Who is asking now."""


def owner() -> str:
    """The one visitor of a person's own machine."""
    return OWNER


def current_visitor() -> str:
    """The visitor whose event is being handled in this thread.

    Ambient on purpose: an endpoint that is added later cannot forget to say whom it serves. Where nobody asks (a thread
    of the page's own) it is a visitor whom nobody else ever is.
    """
    request = LocalContext.request.get(None)
    return secrets.token_urlsafe(16) if request is None else visitor_of(request)


def visitor_of(request: Any) -> str:
    """The visitor behind a request, Gradio's or Starlette's own (which Gradio's carries inside)."""
    inner = getattr(request, "request", None) or request
    session = getattr(request, "session_hash", None) or inner.scope.get(SESSION)
    token = inner.cookies.get(COOKIE) or session or secrets.token_urlsafe(16)
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def new_cookie() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)
