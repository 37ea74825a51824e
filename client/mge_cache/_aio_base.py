"""What the asyncio client does that concerns no single entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from mge_cache import _wire_service
from mge_cache._aio_connection import AsyncConnection
from mge_cache._aio_flights import AsyncFlights
from mge_cache._aio_streams import AsyncStreams
from mge_cache._channel import resolve_target
from mge_cache._health import Health
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._types import Timeouts

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    import grpc

    from mge_cache._stats_types import Stats
    from mge_cache._types import Lease
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncClientBase:
    """The connection of an ``AsyncClient``, which describes the arguments."""

    def __init__(
        self,
        target: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        fail_open: bool = True,
        send_prompt: bool = False,
    ) -> None:
        self.target = resolve_target(target)
        self._timeouts = timeouts or Timeouts()
        self._send_prompt = send_prompt
        self._health = Health(self.target, retry_s=self._timeouts.retry_s)
        self._fail_open = fail_open
        self._connection = AsyncConnection(
            self.target, timeouts=self._timeouts, answered=self._answered
        )
        self._streams = AsyncStreams(self._connection)
        self._flights = AsyncFlights(
            health=self._health,
            timeouts=self._timeouts,
            fail_open=fail_open,
            hold=self.hold,
            ask=self._connection.ask,
        )

    @property
    def stub(self) -> CacheServiceAsyncStub:
        """The generated stub, for calls without deadlines, defaults and types of this client."""
        return self._connection.stub

    @property
    def failures(self) -> int:
        """How many look-ups and stores failed open: what they were for was done without them."""
        return self._health.failures

    def hold(self, lease: Lease) -> AbstractAsyncContextManager[None]:
        """Keep a lease for as long as an ``async with`` block runs.

        Leaving it without having stored the answer hands the lease to the next caller at once.
        """
        message = _wire_service.hold_request(lease, max_s=self._timeouts.hold_s)
        return self._connection.hold(message, notice_s=self._timeouts.get_s)

    async def invalidate(
        self,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        key: bytes | None = None,
        masterplan: str | None = None,
        tag: str | None = None,
        model: str | None = None,
        document: str | None = None,
        collection: str | None = None,
        everything: bool = False,
    ) -> int:
        """Make entries of a namespace unreachable; exactly one target must be given.

        ``document``: all retrieval results that contain the document with this id; ``collection``:
        all those of a collection.

        Returns the tick of the namespace's clock (microseconds since 1970) at which it took effect.
        UnavailableError: nothing was done; repeat it.
        """
        message = _wire_service.invalidate_request(
            namespace=namespace,
            key=key,
            masterplan=masterplan,
            tag=tag,
            model=model,
            document=document,
            collection=collection,
            everything=everything,
        )
        deadline_s = self._timeouts.invalidate_s
        response = await self._connection.call(self.stub.Invalidate, message, deadline_s)
        return response.tick

    async def stats(self, *, namespace: str = "") -> Stats:
        """Read the sidecar's statistics; "" sums over all namespaces."""
        message = _wire_service.stats_request(namespace)
        deadline_s = self._timeouts.stats_s
        response = await self._connection.call(self.stub.Stats, message, deadline_s)
        return _wire_service.stats_of(response)

    async def close(self) -> None:
        """Close the connection. Calls in flight raise ClientClosedError."""
        await self._connection.close()
        await self._streams.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        await self.close()

    def _answered(self) -> None:
        """Tell the health, for which subclasses have put another one in place."""
        self._health.answered()

    async def _look_up(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        wait_s: float,
        *,
        patient: bool,
    ) -> Response:
        """Send a look-up; ``patient``: for a caller who has no other source, and waits."""
        deadline_s = self._timeouts.get_deadline_s(wait_s)
        connection = self._connection
        with self._health.watching(generous=wait_s > 0):
            if patient or not self._fail_open:
                return await connection.call(method, message, deadline_s)
            return await connection.look_up(method, message, deadline_s, waits=wait_s > 0)

    async def _store(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        *,
        patient: bool,
    ) -> Response:
        """Send a result; ``patient``: for a caller who wants to know what becomes of it."""
        deadline_s = self._timeouts.set_s
        with self._health.watching():
            if patient or not self._fail_open:
                return await self._connection.call(method, message, deadline_s)
            return await self._connection.store(method, message, deadline_s)
