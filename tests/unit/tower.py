"""A store with one key, for tests of flights."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.flights import Flights, Held
from mge_cache_server.model import Entry, Hit, HitSource, Lease, Miss
from tests.unit.scene import entry_key, make_entry
from tests.unit.virtual_time import now

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey
    from mge_cache_server.store import LeaseOffer

KEY = entry_key()
TICK = 77
LOCAL_TICK = 55
STORED = Hit(make_entry(), HitSource.STORE, 60.0, degraded=False)
FILLED = Hit(make_entry(b"filled"), HitSource.FLIGHT, 60.0, degraded=False)
IN_PROGRESS = Miss(in_progress=True)


class Tower:
    """A store with one key, and the flights to it."""

    def __init__(self) -> None:
        self.hit: Hit[Entry] | None = None
        self.holder: bytes | None = None
        self.expires_s = 0.0
        self.down = False
        self.fails: Exception | None = None
        self.offers: list[LeaseOffer] = []
        self.released: list[Lease] = []
        self.runway = asyncio.Event()
        self.runway.set()
        self.flights = Flights(
            self._probe, release=self._release, local_tick=lambda _: LOCAL_TICK, now=now
        )

    def join(
        self, *, wait_s: float = 100.0, lease_ttl_s: float = 60.0, key: EntryKey = KEY
    ) -> asyncio.Task[Hit[Entry] | Miss]:
        joining = self.flights.join(key, wait_s=wait_s, lease_ttl_s=lease_ttl_s)
        return asyncio.get_running_loop().create_task(joining)

    async def _probe(self, key: EntryKey, offer: LeaseOffer) -> Hit[Entry] | Lease | Held:
        self.offers.append(offer)
        await self.runway.wait()
        if self.fails is not None:
            raise self.fails
        if self.down:
            raise StoreUnavailableError("down")
        if self.hit is not None:
            return self.hit
        if self.holder not in (None, offer.token) and self.expires_s > now():
            return Held(self.expires_s - now())
        self.holder, self.expires_s = offer.token, now() + offer.ttl_s
        return Lease(key, offer.token, TICK, offer.ttl_s)

    def _release(self, lease: Lease) -> None:
        self.released.append(lease)
        if self.holder == lease.token:
            self.holder = None
        self.flights.end_local(lease)

    def hold(self, ttl_s: float) -> None:
        """Let another sidecar have the lease."""
        self.holder, self.expires_s = b"theirs", now() + ttl_s


def leaders(tasks: list[asyncio.Task[Hit[Entry] | Miss]]) -> list[asyncio.Task[Hit[Entry] | Miss]]:
    """Return the callers that have been given a lease."""
    done = [task for task in tasks if task.done() and not task.cancelled()]
    return [
        task
        for task in done
        if isinstance(outcome := task.result(), Miss) and outcome.lease is not None
    ]


async def cancel(task: asyncio.Task[Hit[Entry] | Miss]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
