"""The streams of one client for threads; see ``_aio_streams``."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mge_cache import _wire_generate
from mge_cache._generation import Generation
from mge_cache._stream import Stream
from mge_cache._stream_parts import LARGE_BYTES, REQUESTS_MAX, id_in_use, too_many
from mge_cache.errors import ClientClosedError

if TYPE_CHECKING:
    from mge_cache._connection import Connection
    from mge_cache.v1 import cache_service_pb2 as pb


class Streams:
    """Opens a stream at the first request, and another after it broke. Any thread may use it.

    A request that is large, or whose id is under way already (a fetch may be), has its own.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._shared: Stream | None = None
        self._others: set[Stream] = set()

    def start(self, message: pb.GenerateRequest, *, within_s: float) -> Generation:
        """Send a request; it ends with DeadlineExceededError ``within_s`` if with nothing else."""
        request_id = _wire_generate.id_of(message)
        with self._lock:
            self._others = {stream for stream in self._others if not stream.broken}
            streams = self._all()
            if sum(map(len, streams)) >= REQUESTS_MAX:
                raise too_many()
            in_use = any(request_id in stream for stream in streams)
            if in_use and not message.HasField("fetch"):
                raise id_in_use()
            alone = in_use or message.ByteSize() >= LARGE_BYTES
            stream = self._open(once=True) if alone else self._usual()
            reply = stream.add(message, within_s=within_s)
        return Generation(stream, reply, request_id)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            streams = self._all()
        for stream in streams:
            stream.close()

    def _all(self) -> list[Stream]:
        return [*([self._shared] if self._shared else []), *self._others]

    def _usual(self) -> Stream:
        if self._shared is None or self._shared.broken:
            self._shared = self._open(once=False)
        return self._shared

    def _open(self, *, once: bool) -> Stream:
        connection = self._connection
        try:
            stream = Stream(connection.stub, closed=lambda: connection.closed, once=once)
        except ValueError as exc:  # what a channel raises that another thread has just closed
            if not connection.closed:
                raise
            raise ClientClosedError("the client is closed") from exc
        if once:
            self._others.add(stream)
        return stream
