"""Whether the sidecar can listen where its settings say, for error messages and ``doctor``."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mge_cache_server.config_parse import split_address

if TYPE_CHECKING:
    from mge_cache_server.config import Settings


def listen_problems(settings: Settings) -> list[str]:
    """Try every address for a moment; return a line for each that cannot be used. Blocks."""
    problems = (
        _unix_problem(settings.unix_socket),
        _tcp_problem("--listen", settings.listen),
        _tcp_problem("--http-listen", settings.http_listen),
    )
    return [problem for problem in problems if problem]


def _tcp_problem(flag: str, address: str) -> str:
    if not address:
        return ""
    host, port = split_address(address)
    try:
        [(family, kind, _, _, where), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            trial.listen()
    except OSError as error:
        return f"{flag} {address}: {_reason(error)}"
    return ""


def _unix_problem(path: str) -> str:
    if not path:
        return ""
    folder = Path(path).parent
    if not folder.is_dir():
        return f"--unix-socket {path}: there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"--unix-socket {path}: the folder {folder} is not writable"
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISSOCK(mode):
            return f"--unix-socket {path}: something that is not a socket is there; remove it"
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(1.0)
            trial.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return ""  # free, or left behind by a sidecar that is gone
    except OSError as error:
        return f"--unix-socket {path}: {_reason(error)}"
    return f"--unix-socket {path}: already in use by another process"


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "already in use by another process"
    if error.errno == errno.EADDRNOTAVAIL:
        return "not an address of this machine"
    return error.strerror or "cannot be used"
