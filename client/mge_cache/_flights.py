"""Look up, or wait for another caller, or compute and store: for threads."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from mge_cache._flight import IN_FLIGHT_MAX, in_progress
from mge_cache._types import Miss
from mge_cache.errors import ClientClosedError, MgeCacheError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mge_cache._flight import Flight
    from mge_cache._health import Health
    from mge_cache._types import Lease, Timeouts

Asking = TypeVar("Asking")
Storing = TypeVar("Storing")
Found = TypeVar("Found")
Result = TypeVar("Result")


class Flights:
    """Runs the flights of one client, in the threads that ask for them; see ``AsyncFlights``."""

    def __init__(
        self,
        *,
        health: Health,
        timeouts: Timeouts,
        fail_open: bool,
        hold: Callable[[Lease], AbstractContextManager[None]],
        ask: Callable[[], None],
    ) -> None:
        self._health = health
        self._timeouts = timeouts
        self._fail_open = fail_open
        self._hold = hold
        self._ask = ask
        self._look_ups = threading.Semaphore(IN_FLIGHT_MAX)
        self._stores = threading.Semaphore(IN_FLIGHT_MAX)

    def run(
        self,
        flight: Flight[Asking, Storing, Result],
        compute: Callable[[], Result],
        *,
        look_up: Callable[[Asking, float], Found | Miss],
        store: Callable[[Storing], object],
        wait_s: float,
    ) -> Found | Result:
        """Return what was found, or what ``compute`` returned, which is stored then.

        ``look_up`` (with the seconds that its message waits) and ``store`` send one message each.
        """
        found = self.find(flight, look_up, wait_s)
        if not isinstance(found, Miss):
            return found
        with self.hold(found):
            started = time.perf_counter()
            result = compute()
            compute_s = time.perf_counter() - started
            self.keep(flight, store, result, lease=found.lease, compute_s=compute_s)
        return result

    def hold(self, miss: Miss) -> AbstractContextManager[None]:
        """Keep the lease of a miss, if it has one, while the block runs."""
        return self._hold(miss.lease) if miss.lease else contextlib.nullcontext()

    def find(
        self,
        flight: Flight[Asking, Storing, Result],
        look_up: Callable[[Asking, float], Found | Miss],
        wait_s: float,
    ) -> Found | Miss:
        """Look up, and wait for another caller's result for up to ``wait_s``."""
        try:
            found = self._look_up(flight, look_up, wait_s)
        except ClientClosedError:
            raise
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without(flight.looks_up, exc)
            return Miss(degraded=True)
        self._health.succeeded(flight.looks_up)
        return found

    def _look_up(
        self,
        flight: Flight[Asking, Storing, Result],
        look_up: Callable[[Asking, float], Found | Miss],
        wait_s: float,
    ) -> Found | Miss:
        """Look up, then wait in slices while somebody else computes the result."""

        def once(slice_s: float, *, asks_again: bool) -> Found | Miss:
            if self._fail_open:
                self._health.check(self._ask)
            message = flight.asking(
                wait_s=slice_s, lease_ttl_s=self._timeouts.lease_ttl_s, asks_again=asks_again
            )
            return look_up(message, slice_s)

        give_up_at = time.monotonic() + wait_s
        asks_again = wait_s > 0
        with self._look_ups:
            found = once(0.0, asks_again=asks_again)
        while asks_again and in_progress(found):
            left_s = max(0.0, give_up_at - time.monotonic())
            slice_s = min(left_s, self._timeouts.slice_s)
            asks_again = slice_s < left_s
            found = once(slice_s, asks_again=asks_again)
        return found

    def keep(
        self,
        flight: Flight[Asking, Storing, Result],
        store: Callable[[Storing], object],
        result: Result,
        *,
        lease: Lease | None,
        compute_s: float,
    ) -> None:
        """Store a result."""
        try:
            message = flight.storing(result, lease=lease, compute_s=compute_s)
            with self._stores:
                if self._fail_open:
                    self._health.check(self._ask)
                store(message)
        except MgeCacheError as exc:
            if not self._fail_open:
                raise
            self._health.went_without(flight.stores, exc)
        else:
            self._health.succeeded(flight.stores)
