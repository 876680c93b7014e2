"""A model hub on this machine, as far as huggingface_hub's client asks one: repositories, trees, files, refusals.

Run as a program it fetches from such a hub in a process of its own, because the client reads its endpoint and whether
it is offline when it is imported.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
REFUSALS = {"they/gated": (403, "GatedRepo"), "they/private": (401, "RepoNotFound"), "they/broken": (500, "")}


@contextmanager
def serve(files: Mapping[str, bytes], *, repo: str) -> Iterator[str]:
    """The address of a hub that has one repository; others are refused or do not exist."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path = self.path.split("?")[0].strip("/")
            for name, (status, code) in REFUSALS.items():
                if name in path:
                    self.reply(status, b"{}", {"X-Error-Code": code} if code else {}, with_body=with_body)
                    return
            if path == f"api/models/{repo}/revision/main":
                self.reply(200, json.dumps({"id": repo, "sha": COMMIT}).encode(), {}, with_body=with_body)
            elif path.startswith(f"api/models/{repo}/revision/"):
                self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
            elif path.startswith(f"api/models/{repo}/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                self.reply(200, json.dumps(tree).encode(), {}, with_body=with_body)
            elif path.startswith(f"{repo}/resolve/") and path.split("/", 4)[4] in files:
                data = files[path.split("/", 4)[4]]
                facts = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                self.reply(200, data, facts, with_body=with_body)
            else:
                self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)

        def reply(self, status: int, body: bytes, headers: Mapping[str, str], *, with_body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Counter:
    """Remembers the last report of bytes."""

    last: tuple[int, int] = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        self.last = (done, total)


def fetch_all(asked: list[dict[str, object]]) -> list[dict[str, object]]:
    """What ``vggrpo.runtime.hub.fetch`` says to each: the folder's files, or the error's line."""
    from vggrpo.runtime.errors import UserError
    from vggrpo.runtime.hub import HubRepo, cached, fetch

    answers: list[dict[str, object]] = []
    for item in asked:
        source = HubRepo(
            repo=str(item["repo"]),
            patterns=("*.json", "parts/*.safetensors"),
            licence="Apache-2.0",
            gigabytes=1.5,
            revision=str(item.get("revision", "main")),
        )
        seen = Counter()
        try:
            folder = fetch(source, offline=bool(item.get("offline")), on_bytes=seen)
        except UserError as error:
            answers.append({"error": str(error), "cached": cached(source) is not None})
            continue
        files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
        answers.append({"files": files, "bytes": seen.last, "cached": cached(source) is not None})
    return answers


if __name__ == "__main__":
    sys.stdout.write(json.dumps(fetch_all(json.loads(sys.argv[1]))))
