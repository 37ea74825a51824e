"""What ``embedded`` asks of a server over its unix socket, without a Redis client."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

SOCKET_NAME = "valkey.sock"
"""The socket's name in the data folder."""

_PATH_MAX_BYTES = 103  # macOS; Linux takes 107
_PING_S = 0.5
_END_S = 2.0


def socket_path(home: Path) -> Path | None:
    """Return where a data folder's socket is; None if that path is too long for a socket."""
    path = home / SOCKET_NAME
    return path if len(os.fsencode(path)) <= _PATH_MAX_BYTES else None


async def ping(path: Path) -> bytes:
    """Return the beginning of the server's reply to PING; nothing if it does not answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.0)
        try:
            async with asyncio.timeout(_PING_S):
                await loop.sock_connect(connection, str(path))
                await loop.sock_sendall(connection, b"PING\r\n")
                return await loop.sock_recv(connection, 64)
        except (OSError, TimeoutError):
            return b""


async def end_server(path: Path) -> bool:
    """End the server that listens at a path, if there is one; returns whether there is none now.

    It is asked to shut down, which saves its data. On Linux it is killed if it does not.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.0)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, str(path))
            _log.warning("an earlier server still listens; ending it", extra={"path": str(path)})
            await loop.sock_sendall(connection, b"SHUTDOWN\r\n")
            if await _ended(connection):
                return True
            pid = _listener_pid(connection)
            if pid is None:
                return False
            os.kill(pid, signal.SIGKILL)
            return await _ended(connection)
        except (FileNotFoundError, ConnectionError, ProcessLookupError):
            return True


async def _ended(connection: socket.socket) -> bool:
    """Wait until the other side of a connection has gone."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_END_S):
            while await loop.sock_recv(connection, 4096):
                pass  # an error reply: it cannot shut down yet
    except TimeoutError:
        return False
    return True


def _listener_pid(connection: socket.socket) -> int | None:
    """Return the process that listens at the other end of a unix socket; None if unknown."""
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, 12))[0]
    return pid
