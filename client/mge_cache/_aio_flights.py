"""Look up, or wait for another caller, or compute and store: for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from mge_cache._flight import IN_FLIGHT_MAX, in_progress
from mge_cache._turns import Turns
from mge_cache._types import Miss
from mge_cache.errors import ClientClosedError, MgeCacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from mge_cache._flight import Flight
    from mge_cache._health import Health
    from mge_cache._types import Lease, Timeouts

Asking = TypeVar("Asking")
Storing = TypeVar("Storing")
Found = TypeVar("Found")
Result = TypeVar("Result")


class AsyncFlights:
    """Runs the flights of one client, in one event loop.

    With ``fail_open``, a look-up that fails is a miss, and a store that fails is left out; both are
    counted by ``health``, and not tried while the sidecar cannot be reached. ``hold`` keeps a lease
    for as long as its block runs.
    """

    def __init__(
        self,
        *,
        health: Health,
        timeouts: Timeouts,
        fail_open: bool,
        hold: Callable[[Lease], AbstractAsyncContextManager[None]],
        ask: Callable[[], None],
    ) -> None:
        self._health = health
        self._timeouts = timeouts
        self._fail_open = fail_open
        self._hold = hold
        self._ask = ask
        self._look_ups = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._stores = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._turns = Turns()

    async def run(
        self,
        flight: Flight[Asking, Storing, Result],
        compute: Callable[[], Awaitable[Result]],
        *,
        look_up: Callable[[Asking, float], Awaitable[Found | Miss]],
        store: Callable[[Storing], Awaitable[object]],
        wait_s: float,
    ) -> Found | Result:
        """Return what was found, or what ``compute`` returned, which is stored then.

        ``look_up`` (with the seconds that its message waits) and ``store`` send one message each.
        """
        found = await self.find(flight, look_up, wait_s)
        if not isinstance(found, Miss):
            return found
        async with self.hold(found):
            started = time.perf_counter()
            result = await compute()
            compute_s = time.perf_counter() - started
            await self.keep(flight, store, result, lease=found.lease, compute_s=compute_s)
        return result

    def hold(self, miss: Miss) -> AbstractAsyncContextManager[None]:
        """Keep the lease of a miss, if it has one, while the block runs."""
        return self._hold(miss.lease) if miss.lease else contextlib.nullcontext()

    async def find(
        self,
        flight: Flight[Asking, Storing, Result],
        look_up: Callable[[Asking, float], Awaitable[Found | Miss]],
        wait_s: float,
    ) -> Found | Miss:
        """Look up, and wait for another caller's result for up to ``wait_s``."""
        try:
            found = await self._look_up(flight, look_up, wait_s)
        except ClientClosedError:
            raise
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without(flight.looks_up, exc)
            return Miss(degraded=True)
        self._health.succeeded(flight.looks_up)
        return found

    async def _look_up(
        self,
        flight: Flight[Asking, Storing, Result],
        look_up: Callable[[Asking, float], Awaitable[Found | Miss]],
        wait_s: float,
    ) -> Found | Miss:
        """Look up, then wait in slices while somebody else computes the result."""

        async def once(slice_s: float, *, asks_again: bool) -> Found | Miss:
            if self._fail_open:
                self._health.check(self._ask)
            message = flight.asking(
                wait_s=slice_s, lease_ttl_s=self._timeouts.lease_ttl_s, asks_again=asks_again
            )
            return await look_up(message, slice_s)

        give_up_at = time.monotonic() + wait_s
        asks_again = wait_s > 0
        async with self._look_ups:
            found = await once(0.0, asks_again=asks_again)
        if not in_progress(found):
            return found
        async with self._turns.of(flight.turn, within_s=wait_s):
            while asks_again and in_progress(found):
                left_s = max(0.0, give_up_at - time.monotonic())
                slice_s = min(left_s, self._timeouts.slice_s)
                asks_again = slice_s < left_s
                found = await once(slice_s, asks_again=asks_again)
        return found

    async def keep(
        self,
        flight: Flight[Asking, Storing, Result],
        store: Callable[[Storing], Awaitable[object]],
        result: Result,
        *,
        lease: Lease | None,
        compute_s: float,
    ) -> None:
        """Store a result."""
        try:
            message = flight.storing(result, lease=lease, compute_s=compute_s)
            async with self._stores:
                if self._fail_open:
                    self._health.check(self._ask)
                await store(message)
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without(flight.stores, exc)
        else:
            self._health.succeeded(flight.stores)
