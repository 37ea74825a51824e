"""Single flight: of all callers that miss a key, one computes and the others wait for its answer.

Inside a sidecar, callers of the same key share a flight, which asks the store once for all of them.
Across sidecars, the store's lease decides who leads. A flight that finds somebody else's lease in
the way waits until it is told that the lease is over (``settled``), until the lease expires, or
for a second, and asks again: so a message that is lost costs a second, not an answer.

The flight belongs to no caller: its task goes on when the caller that started it is cancelled.
After ``golang.org/x/sync/singleflight`` and groupcache, with leases as in Nishtala et al., "Scaling
Memcache at Facebook" (NSDI 2013), section 3.2.1. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol

from mge_cache_server.errors import StoreError
from mge_cache_server.keys import TOKEN_BYTES
from mge_cache_server.model import E, E_co, Hit, HitSource, Lease, Miss
from mge_cache_server.store import LeaseOffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.model import EntryKey

_ASK_AGAIN_S = 1.0
_EXPIRY_SLACK_S = 0.002
_LOCAL_LOOK = 4
_LOCAL_MAX = 100_000
"""Leases granted while the store is down. Past that, the oldest go: a second caller may compute."""


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else's lease is in the way for ``remaining_s``."""

    remaining_s: float


class Probe(Protocol[E_co]):
    """Looks a key up in the store and takes the offered lease if it is missing."""

    async def __call__(self, key: EntryKey, offer: LeaseOffer) -> Hit[E_co] | Lease | Held:
        """Return what there is; raises StoreError."""


@dataclass(slots=True)
class _Waiter(Generic[E]):
    landing: asyncio.Future[Hit[E] | Miss]
    patient: bool
    lease_ttl_s: float


@dataclass(slots=True)
class _Flight(Generic[E]):
    waiters: list[_Waiter[E]] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    held: bool = False
    degraded: bool = False

    def waiting(self) -> list[_Waiter[E]]:
        """Return the callers that are still there."""
        return [waiter for waiter in self.waiters if not waiter.landing.done()]

    def land(self, outcome: Hit[E]) -> None:
        """Give all callers the answer."""
        for waiter in self.waiting():
            waiter.landing.set_result(outcome)

    def hold(self, *, degraded: bool) -> None:
        """Take note that somebody computes; callers that do not wait for it are told so."""
        self.held, self.degraded = True, degraded
        for waiter in self.waiting():
            if not waiter.patient:
                waiter.landing.set_result(Miss(in_progress=True, degraded=degraded))

    def fail(self, failure: BaseException) -> None:
        """Give all callers a defect of ours."""
        for waiter in self.waiting():
            waiter.landing.set_exception(failure)


class Flights(Generic[E]):
    """All flights of a sidecar.

    ``probe`` asks the store; ``release(lease)`` gives a lease back in the background; while the
    store is down, ``local_tick(namespace)`` dates the leases that this sidecar grants by itself.
    """

    def __init__(
        self,
        probe: Probe[E],
        *,
        release: Callable[[Lease], None],
        local_tick: Callable[[str], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._release = release
        self._local_tick = local_tick
        self._now = now
        self._flights: dict[EntryKey, _Flight[E]] = {}
        self._local: dict[EntryKey, tuple[bytes, float]] = {}
        self._closing = False
        self._all_landed: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return the number of flights under way."""
        return len(self._flights)

    async def join(
        self, key: EntryKey, *, wait_s: float, lease_ttl_s: float, dated: bool = False
    ) -> Hit[E] | Miss:
        """Return the entry, or a miss with the lease, or (after ``wait_s``) one in progress.

        ``dated``: see ``LeaseOffer``.
        """
        flight = self._flights.get(key)
        pause_s: float | None = None
        if flight is None:
            flight = self._flights[key] = _Flight()
            offer = LeaseOffer(secrets.token_bytes(TOKEN_BYTES), lease_ttl_s, dated)
            outcome = await self._ask_first(key, flight, offer)
            if not isinstance(outcome, Held):
                return outcome
            pause_s = outcome.remaining_s
        patient = wait_s > 0 and not self._closing
        if flight.held and not patient:
            if pause_s is not None:
                self._fly_on(key, flight, pause_s)
            return Miss(in_progress=True, degraded=flight.degraded)
        landing: asyncio.Future[Hit[E] | Miss] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(landing, patient, lease_ttl_s)
        flight.waiters.append(waiter)
        if pause_s is not None:
            self._fly_on(key, flight, pause_s)
        try:
            return await self._wait_to_land(waiter, wait_s)
        finally:
            landing.cancel()
            flight.waiters.remove(waiter)
            if not flight.waiters:
                flight.wake.set()

    async def _wait_to_land(self, waiter: _Waiter[E], wait_s: float) -> Hit[E] | Miss:
        landing = waiter.landing
        try:
            if not waiter.patient:
                return await landing
            async with asyncio.timeout(wait_s):
                return await landing
        except TimeoutError:
            # The answer may have landed in the moment in which the time was over.
            landed = landing.done() and not landing.cancelled()
            return landing.result() if landed else Miss(in_progress=True)
        except asyncio.CancelledError:
            if landing.done() and not landing.cancelled():
                outcome = landing.result()
                if isinstance(outcome, Miss) and outcome.lease is not None:
                    self._release(outcome.lease)
            raise

    def fulfil(self, key: EntryKey, hit: Hit[E] | None) -> None:
        """Give an entry that was stored by this sidecar to all who wait for it here.

        None: its lease is over, but whether it is valid they have to ask the store.
        """
        self._local.pop(key, None)
        flight = self._flights.get(key)
        if flight is not None:
            if hit is not None:
                flight.land(hit)
            flight.wake.set()

    def settled(self, key: EntryKey) -> None:
        """Take note that a lease is over: whoever waits asks the store again."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.wake.set()

    def end_local(self, lease: Lease) -> None:
        """Forget a lease that this sidecar granted while the store was down."""
        held = self._local.get(lease.key)
        if held is not None and held[0] == lease.token:
            del self._local[lease.key]
        self.settled(lease.key)

    async def close(self) -> None:
        """End all waits; their callers get a miss in progress. Waits for questions under way."""
        self._closing = True
        for flight in self._flights.values():
            for waiter in flight.waiting():
                waiter.landing.set_result(Miss(in_progress=True))
            flight.wake.set()
        if self._flights:
            self._all_landed = asyncio.get_running_loop().create_future()
            await self._all_landed

    def _end(self, key: EntryKey) -> None:
        del self._flights[key]
        if self._all_landed is not None and not self._flights and not self._all_landed.done():
            self._all_landed.set_result(None)

    async def _ask_first(
        self, key: EntryKey, flight: _Flight[E], offer: LeaseOffer
    ) -> Hit[E] | Miss | Held:
        # The flight's first caller asks by itself: most of the time there is a hit, and no task is
        # needed. If it is cancelled, a task asks the same again for those who have joined.
        try:
            outcome, degraded = await self._ask(key, offer)
        except asyncio.CancelledError:
            self._take_off(key, flight, 0.0, offer)
            raise
        except BaseException as exc:
            self._end(key)
            flight.fail(exc)
            raise
        if isinstance(outcome, Hit):
            self._end(key)
            flight.land(outcome)
            return outcome
        flight.hold(degraded=degraded)
        if isinstance(outcome, Held):
            return outcome
        self._fly_on(key, flight, offer.ttl_s)
        if self._closing:
            # Whoever gets a lease now could not store its answer any more.
            self._release(outcome)
            return Miss(in_progress=True)
        return Miss(lease=outcome, degraded=degraded)

    def _fly_on(self, key: EntryKey, flight: _Flight[E], pause_s: float) -> None:
        """Let a task look after those who have joined; if nobody has, the flight is over."""
        if flight.waiting():
            self._take_off(key, flight, pause_s)
        else:
            self._end(key)

    def _take_off(
        self, key: EntryKey, flight: _Flight[E], pause_s: float, offer: LeaseOffer | None = None
    ) -> None:
        def failed(task: asyncio.Task[None]) -> None:
            failure = asyncio.CancelledError() if task.cancelled() else task.exception()
            if failure is not None:
                flight.fail(failure)

        task = self._fly(key, flight, pause_s, offer)
        flight.task = asyncio.get_running_loop().create_task(task)
        flight.task.add_done_callback(failed)

    async def _fly(
        self, key: EntryKey, flight: _Flight[E], pause_s: float, offer: LeaseOffer | None
    ) -> None:
        try:
            while True:
                if pause_s > 0:
                    await _wait(flight.wake, min(pause_s + _EXPIRY_SLACK_S, _ASK_AGAIN_S))
                waiting = flight.waiting()
                if not waiting and offer is None:
                    return
                flight.wake.clear()
                offer = offer or LeaseOffer(
                    secrets.token_bytes(TOKEN_BYTES), waiting[0].lease_ttl_s
                )
                outcome, degraded = await self._ask(key, offer)
                if isinstance(outcome, Hit):
                    flight.land(replace(outcome, source=HitSource.FLIGHT))
                    return
                if isinstance(outcome, Lease):
                    self._hand_over(outcome, flight, degraded=degraded)
                    outcome = Held(offer.ttl_s)
                flight.hold(degraded=degraded)
                pause_s, offer = max(outcome.remaining_s, _EXPIRY_SLACK_S), None
        finally:
            # Without an await since the last look at the waiters: nobody can have joined since.
            self._end(key)

    async def _ask(self, key: EntryKey, offer: LeaseOffer) -> tuple[Hit[E] | Lease | Held, bool]:
        try:
            return await self._probe(key, offer), False
        except StoreError:
            return self._grant_locally(key, offer), True

    def _hand_over(self, lease: Lease, flight: _Flight[E], *, degraded: bool) -> None:
        for waiter in flight.waiting():
            waiter.landing.set_result(Miss(lease=lease, degraded=degraded))
            return
        self._release(lease)

    def _grant_locally(self, key: EntryKey, offer: LeaseOffer) -> Lease | Held:
        now_s = self._now()
        held = self._local.get(key)
        if held is not None and held[1] > now_s:
            return Held(held[1] - now_s)
        for oldest in list(islice(self._local, _LOCAL_LOOK)):
            # More leave than come, so the table shrinks to those that hold.
            if self._local[oldest][1] <= now_s or len(self._local) >= _LOCAL_MAX:
                del self._local[oldest]
        self._local[key] = (offer.token, now_s + offer.ttl_s)
        return Lease(key, offer.token, self._local_tick(key.namespace), offer.ttl_s)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
