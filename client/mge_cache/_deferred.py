"""Flights whose caller does not wait for the result to be stored: for threads."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mge_cache._flights import Flights
from mge_cache._rag_types import RagHit, RagMiss
from mge_cache._types import Miss
from mge_cache.errors import UnavailableError
from mge_cache.sync import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mge_cache._flight import Flight
    from mge_cache._health import Health
    from mge_cache._types import Lease, Timeouts
    from mge_cache._wire_rag import RagFound
    from mge_cache.v1 import cache_service_pb2 as pb

Asking = TypeVar("Asking")
Storing = TypeVar("Storing")
Found = TypeVar("Found")
Result = TypeVar("Result")

PENDING_MAX = 64
"""Results that wait to be stored. More are not stored, and their leases given back."""

TOO_MANY = UnavailableError("not tried, as too many results wait to be stored")

_WORKERS = 4


class DeferredFlights(Flights):
    """``Flights`` that store in threads of their own; the lease is held until then.

    The threads end with ``flush``, or with the interpreter, which waits for them.
    """

    def __init__(
        self,
        *,
        health: Health,
        timeouts: Timeouts,
        fail_open: bool,
        hold: Callable[[Lease], AbstractContextManager[None]],
        ask: Callable[[], None],
    ) -> None:
        super().__init__(health=health, timeouts=timeouts, fail_open=fail_open, hold=hold, ask=ask)
        self._room = threading.Semaphore(PENDING_MAX)
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def run(
        self,
        flight: Flight[Asking, Storing, Result],
        compute: Callable[[], Result],
        *,
        look_up: Callable[[Asking, float], Found | Miss],
        store: Callable[[Storing], object],
        wait_s: float,
    ) -> Found | Result:
        """Return what was found, or what ``compute`` returned, which is stored later."""
        found = self.find(flight, look_up, wait_s)
        if not isinstance(found, Miss):
            return found
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hold(found))
            started = time.perf_counter()
            result = compute()
            compute_s = time.perf_counter() - started
            held = stack.pop_all()

        def keep() -> None:
            with held:
                self.keep(flight, store, result, lease=found.lease, compute_s=compute_s)

        if not self._later(keep):
            self._health.went_without(flight.stores, TOO_MANY)
            held.close()
        return result

    def flush(self) -> None:
        """Wait until all is stored that waits to be."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)

    def _later(self, work: Callable[[], None]) -> bool:
        if not self._room.acquire(blocking=False):
            return False

        def working() -> None:
            try:
                work()
            finally:
                self._room.release()

        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mge-cache-store")
            self._threads.submit(working)
        return True


class DeferringClient(Client):
    """A ``Client`` whose ``retrieve_or_compute`` returns before the result is stored.

    ``read`` makes of a hit what its caller gets; None if it cannot be used: then it is a miss.
    """

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
        self._flights = self._deferred = DeferredFlights(
            health=health,
            timeouts=timeouts,
            fail_open=True,
            hold=self.hold,
            ask=self._connection.ask,
        )

    def flush(self) -> None:
        """Wait until all is stored that waits to be."""
        self._deferred.flush()

    def close(self) -> None:
        """Store what waits to be, then close the connection."""
        self.flush()
        super().close()

    def _query_rag(
        self, message: pb.QueryRAGRequest, wait_s: float, *, patient: bool = False
    ) -> RagFound:
        found = super()._query_rag(message, wait_s, patient=patient)
        return found if isinstance(found, RagMiss) else self._read(found) or RagMiss()
