"""A TCP proxy that can stop forwarding, as a line does that nobody hung up."""

from __future__ import annotations

import asyncio
from typing import Self

_CHUNK_BYTES = 65536


class TcpProxy:
    """Forwards 127.0.0.1:``port`` to another port of this machine. Belongs to one event loop."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.hanging = 0
        """Connections that were accepted while the line was dead."""
        self._target_port = target_port
        self._forwards = True
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang()
        self.reset_connections()

    def hang(self) -> None:
        """Forward nothing more, and accept what connects."""
        self._forwards = False
        for task in self._tasks:
            task.cancel()

    def forward_new_connections(self) -> None:
        """Serve who connects from now on; who is connected hears nothing for ever."""
        self._forwards = True

    def reset_connections(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if not self._forwards:
            self.hanging += 1
            return
        beyond = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.add(beyond[1])
        for source, sink in ((reader, beyond[1]), (beyond[0], writer)):
            task = asyncio.get_running_loop().create_task(_copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    sink.close()
