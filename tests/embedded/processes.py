"""Embedded servers for a test, and how to ask them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from mge_cache_server import embedded_socket
from mge_cache_server.embedded import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[EmbeddedValkey, str]]:
    server = EmbeddedValkey(folder)
    try:
        yield server, await server.start()
    finally:
        await server.stop()


def execute(url: str, *command: str | int) -> object:
    with redis.Redis.from_url(url) as client:
        answer: object = client.execute_command(*command)
        return answer


def exists(pid: int) -> bool:
    """Whether a process runs (one that only waits to be reaped does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


async def answers(folder: Path) -> bool:
    """Whether the server of a folder answers."""
    return (await embedded_socket.ping(folder / "valkey.sock")).startswith(b"+PONG")
