"""The streams of one asyncio client: one for all requests, and others where that would not do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mge_cache import _wire_generate
from mge_cache._aio_generation import AsyncGeneration
from mge_cache._aio_stream import AsyncStream
from mge_cache._stream_parts import LARGE_BYTES, REQUESTS_MAX, id_in_use, too_many

if TYPE_CHECKING:
    from mge_cache._aio_connection import AsyncConnection
    from mge_cache.v1 import cache_service_pb2 as pb


class AsyncStreams:
    """Opens a stream at the first request, and another after it broke. For one event loop.

    A request that is large, or whose id is under way already (a fetch may be), has its own.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._shared: AsyncStream | None = None
        self._others: set[AsyncStream] = set()

    def start(self, message: pb.GenerateRequest, *, within_s: float) -> AsyncGeneration:
        """Send a request; it ends with DeadlineExceededError ``within_s`` if with nothing else."""
        request_id = _wire_generate.id_of(message)
        self._others = {stream for stream in self._others if not stream.broken}
        streams = [*([self._shared] if self._shared else []), *self._others]
        if sum(map(len, streams)) >= REQUESTS_MAX:
            raise too_many()
        in_use = any(request_id in stream for stream in streams)
        if in_use and not message.HasField("fetch"):
            raise id_in_use()
        alone = in_use or message.ByteSize() >= LARGE_BYTES
        stream = self._open(once=True) if alone else self._usual()
        return AsyncGeneration(stream, stream.add(message, within_s=within_s), request_id)

    async def close(self) -> None:
        """End all of them."""
        streams = [*([self._shared] if self._shared else []), *self._others]
        await asyncio.gather(*(stream.close() for stream in streams))

    def _usual(self) -> AsyncStream:
        if self._shared is None or self._shared.broken:
            self._shared = self._open(once=False)
        return self._shared

    def _open(self, *, once: bool) -> AsyncStream:
        connection = self._connection
        call = connection.stub.Generate()  # type: ignore[call-arg]  # the stub lacks the default
        stream = AsyncStream(call, closed=lambda: connection.closed, once=once)
        if once:
            self._others.add(stream)
        return stream
