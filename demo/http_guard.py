"""What stands before Gradio: bounds on what is sent, fewer files served, and a cookie that tells visitors apart.

Gradio bounds the size of an uploaded file, but neither a request's other content nor what a request makes the server
fetch from elsewhere; and it serves whole folders, in which this page keeps a few files that are nobody's business.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.environment import Limits
from demo.visitors import COOKIE, SESSION, new_cookie

MOST_JSON = 2**20
"""Bytes of a request that is no upload."""
_COOKIE_SECONDS = 30 * 24 * 3600
_FILES = ("/gradio_api/file=", "/gradio_api/file/", "/file=")
_UPLOAD = "/gradio_api/upload"


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpGuard:
    """ASGI middleware over the whole page. ``finetunes`` is the folder of fine-tunes, of which only runs are served."""

    def __init__(self, app: ASGIApp, *, limits: Limits, finetunes: Path, is_public: bool) -> None:
        self._app = app
        self._limits = limits
        self._finetunes = finetunes.resolve()
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_file(scope)
            if scope["method"] == "POST":
                receive = await self._checked_body(scope, receive)
        except Refused as refused:
            await PlainTextResponse(str(refused), status_code=refused.status)(scope, receive, send)
            return
        await self._app(scope, receive, self._with_cookie(scope, send) if self._is_public else send)

    def _check_file(self, scope: Scope) -> None:
        """No address of another server, no draft, and of a fine-tune only what its trainer wrote."""
        path = str(scope["path"])
        prefix = next((prefix for prefix in _FILES if path.startswith(prefix)), None)
        if prefix is None:
            return
        # Once more than the server did: a doubly encoded path may be decoded again further in.
        asked = unquote(path[len(prefix) :])
        if "://" in asked or asked.startswith(("http:", "https:")):
            raise Refused(403, "Only files of this page are served.")
        file = Path(asked).resolve()
        if self._finetunes in file.parents:
            inside = file.relative_to(self._finetunes).parts
            is_hidden = len(inside) < 3 or inside[1] != "run" or any(part.startswith(".") for part in inside)
            if is_hidden:
                raise Refused(403, "This file is not served.")

    async def _checked_body(self, scope: Scope, receive: Receive) -> Receive:
        """The body within its bounds: an upload is counted as it streams, anything else is read and looked at."""
        is_upload = scope["path"].startswith(_UPLOAD)
        most = self._limits.upload_bytes if is_upload else MOST_JSON
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise Refused(413, _too_large(most))
        if is_upload:
            if shutil.disk_usage(tempfile.gettempdir()).free < self._limits.spare_bytes:
                raise Refused(507, "The server's disk is full. Try again later.")
            return _counted(receive, most=most)
        body = await _read(receive, most=most)
        _look_at(body, scope)
        return _replayed(body, receive)

    def _with_cookie(self, scope: Scope, send: Send) -> Send:
        """A cookie for a browser that has none, with the page itself."""
        headers = Headers(scope=scope)
        is_page = scope["path"] == "/" and scope["method"] == "GET"
        if not is_page or COOKIE in SimpleCookie(headers.get("cookie", "")):
            return send
        is_secure = "https" in (scope.get("scheme"), headers.get("x-forwarded-proto", "").split(",")[0])

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A Space is shown inside a frame of another site: only a partitioned cookie is kept there.
                where = "SameSite=None; Secure; Partitioned" if is_secure else "SameSite=Lax"
                cookie = f"{COOKIE}={new_cookie()}; Max-Age={_COOKIE_SECONDS}; Path=/; HttpOnly; {where}"
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        return send_with_cookie


def _too_large(most: int) -> str:
    size = f"{most // 2**20} MB" if most >= 2**20 else f"{most // 2**10} kB"
    return f"This is too large: at most {size} can be sent."


async def _read(receive: Receive, *, most: int) -> bytes:
    """All of a body. Raises ``Refused`` as soon as it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(413, _too_large(most))
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then whatever comes after it (that the visitor went away)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _counted(receive: Receive, *, most: int) -> Receive:
    """A body that ends as if the visitor had gone away once it is too long."""
    seen = 0

    async def count() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > most else message

    return count


def _look_at(body: bytes, scope: Scope) -> None:
    """Note the session that a request names, and refuse files that the server would have to fetch from elsewhere."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        return
    session = content.get("session_hash")
    if isinstance(session, str) and session:
        scope[SESSION] = session
    for path in _file_paths(content):
        if "://" in path or path.lower().startswith(("http:", "https:")):
            raise Refused(400, "Send the file itself: addresses of other servers are not opened.")


def _file_paths(content: Any) -> Iterator[str]:
    """The path of every file in Gradio's notation, at any depth."""
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                yield item["path"]
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
