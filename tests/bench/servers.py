"""The server processes that the benchmark and the demo start. All listen on unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as NotThereError

from mge_cache_server.embedded import find_binary
from tests.bench.processes import Process, StartError, python, ready
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A gRPC server that is ready. ``ready_s`` is the time that this took from its start."""

    process: Process
    socket: str
    ready_s: float

    @property
    def target(self) -> str:
        """The address for gRPC."""
        return f"unix:{self.socket}"


@contextlib.asynccontextmanager
async def valkey(folder: Path) -> AsyncIterator[str]:
    """Run a Valkey with the embedded one's durability; yields the path of its socket."""
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
    socket = folder / "valkey.sock"
    process = Process(
        [
            *(str(find_binary()), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
        ],
        log=folder / "valkey.log",
    )
    try:
        await _answers(process, socket)
        yield str(socket)
    finally:
        process.stop()


async def _answers(process: Process, socket: Path) -> None:
    deadline = monotonic() + _START_S
    async with Redis(unix_socket_path=str(socket)) as client:
        while monotonic() < deadline and process.running:
            with contextlib.suppress(NotThereError, BusyLoadingError):
                await client.ping()
                return
            await asyncio.sleep(0.01)
    raise StartError(f"valkey does not answer:\n{process.output()[-2000:]}")


@contextlib.asynccontextmanager
async def echo(folder: Path) -> AsyncIterator[Server]:
    """Run the bare gRPC server."""
    socket = folder / "echo.sock"
    process = Process(python("tests.bench.echo", str(socket)), log=folder / "echo.log")
    async with _serving(process, socket) as server:
        yield server


@contextlib.asynccontextmanager
async def messages(folder: Path, name: str, *options: str) -> AsyncIterator[str]:
    """Run the local Messages API with options of its own; yields its base URL."""
    process = Process(python("tests.messages_server", *options), log=folder / f"{name}.log")

    def listens() -> str:
        if not process.running:
            raise StartError(f"the Messages API ended:\n{process.output()[-2000:]}")
        return process.output().partition("\n")[0]

    try:
        yield await eventually(listens, within_s=_START_S)
    finally:
        process.stop()


@contextlib.asynccontextmanager
async def sidecar(
    folder: Path,
    name: str,
    *options: str,
    profile: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Server]:
    """Run ``mge-cache serve`` with more options; under cProfile if ``profile`` names a file."""
    socket = folder / f"{name}.sock"
    serve = ["serve", "--unix-socket", str(socket), "--listen", "", "--http-listen", "", *options]
    command = python("mge_cache_server", *serve)
    if profile is not None:
        command = python("cProfile", "-o", str(profile), "-m", "mge_cache_server", *serve)
    variables = {"MGE_CACHE_LOG_LEVEL": "warning", **(environment or {})}
    process = Process(command, log=folder / f"{name}.log", environment=variables)
    async with _serving(process, socket) as server:
        yield server


@contextlib.asynccontextmanager
async def _serving(process: Process, socket: Path) -> AsyncIterator[Server]:
    try:
        ready_s = await ready(process, f"unix:{socket}", timeout_s=_START_S)
        yield Server(process, str(socket), ready_s)
    finally:
        process.stop()
