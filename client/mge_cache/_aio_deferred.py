"""Flights whose caller does not wait for the result to be stored: for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from mge_cache._aio_flights import AsyncFlights
from mge_cache._deferred import PENDING_MAX, TOO_MANY
from mge_cache._rag_types import RagHit, RagMiss
from mge_cache._types import Miss
from mge_cache.aio import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from mge_cache._flight import Flight
    from mge_cache._health import Health
    from mge_cache._types import Lease, Timeouts
    from mge_cache._wire_rag import RagFound
    from mge_cache.v1 import cache_service_pb2 as pb

Asking = TypeVar("Asking")
Storing = TypeVar("Storing")
Found = TypeVar("Found")
Result = TypeVar("Result")


class AsyncDeferredFlights(AsyncFlights):
    """``AsyncFlights`` that store in tasks of their own; the lease is held until then."""

    def __init__(
        self,
        *,
        health: Health,
        timeouts: Timeouts,
        fail_open: bool,
        hold: Callable[[Lease], AbstractAsyncContextManager[None]],
        ask: Callable[[], None],
    ) -> None:
        super().__init__(health=health, timeouts=timeouts, fail_open=fail_open, hold=hold, ask=ask)
        self._pending: set[asyncio.Task[None]] = set()

    async def run(
        self,
        flight: Flight[Asking, Storing, Result],
        compute: Callable[[], Awaitable[Result]],
        *,
        look_up: Callable[[Asking, float], Awaitable[Found | Miss]],
        store: Callable[[Storing], Awaitable[object]],
        wait_s: float,
    ) -> Found | Result:
        """Return what was found, or what ``compute`` returned, which is stored later."""
        found = await self.find(flight, look_up, wait_s)
        if not isinstance(found, Miss):
            return found
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.hold(found))
            started = time.perf_counter()
            result = await compute()
            compute_s = time.perf_counter() - started
            held = stack.pop_all()

        async def keep() -> None:
            async with held:
                await self.keep(flight, store, result, lease=found.lease, compute_s=compute_s)

        if len(self._pending) < PENDING_MAX:
            self._start(keep())
        else:
            self._health.went_without(flight.stores, TOO_MANY)
            self._start(held.aclose())  # too many to store are not too many to end
        return result

    async def flush(self) -> None:
        """Wait until all is stored that waits to be."""
        while self._pending:
            await asyncio.wait(self._pending)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)


class DeferringAsyncClient(AsyncClient):
    """As ``DeferringClient``, for one event loop."""

    def __init__(
        self,
        target: str | None,
        *,
        timeouts: Timeouts,
        health: Health,
        read: Callable[[RagHit], RagHit | None],
    ) -> None:
        super().__init__(target, timeouts=timeouts)
        self._read = read
        self._health = health
        self._flights = self._deferred = AsyncDeferredFlights(
            health=health,
            timeouts=timeouts,
            fail_open=True,
            hold=self.hold,
            ask=self._connection.ask,
        )

    async def flush(self) -> None:
        """Wait until all is stored that waits to be."""
        await self._deferred.flush()

    async def close(self) -> None:
        """Store what waits to be, then close the connection."""
        await self.flush()
        await super().close()

    async def _query_rag(
        self, message: pb.QueryRAGRequest, wait_s: float, *, patient: bool = False
    ) -> RagFound:
        found = await super()._query_rag(message, wait_s, patient=patient)
        return found if isinstance(found, RagMiss) else self._read(found) or RagMiss()
