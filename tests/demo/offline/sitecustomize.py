"""Python without a network: every address but this machine's own is refused, and noted in a file."""

import os
import socket
from pathlib import Path
from typing import Any

_connect = socket.socket.connect
_look_up = socket.getaddrinfo
_LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}


def _refuse(host: object) -> None:
    if host not in _LOCAL:
        with Path(os.environ["OFFLINE_NOTES"]).open("a") as notes:
            notes.write(f"{host}\n")
        raise OSError(101, "Network is unreachable")


def _connect_here(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX:
        _refuse(address[0])
    _connect(self, address)


def _look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
    _refuse(host.decode() if isinstance(host, bytes) else host)
    return _look_up(host, *arguments, **options)


socket.socket.connect = _connect_here  # type: ignore[method-assign]
socket.getaddrinfo = _look_up_here
