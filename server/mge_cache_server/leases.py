"""Leases that callers hold by an open call, and giving leases back.

A held lease is renewed every third of its time. When the call ends without the answer having been
stored, the lease is released at once, and the next caller in line takes over. Belongs to the event
loop's thread.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreError
from mge_cache_server.model import LeaseEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache_server.model import Lease
    from mge_cache_server.store import Store

_RENEWALS_PER_TTL = 3


class Leases:
    """Holds, renews, releases. ``failed(namespace, operation)`` is told of the store's failures."""

    def __init__(self, store: Store, *, failed: Callable[[str, str], None]) -> None:
        self._store = store
        self._failed = failed
        self._held: dict[bytes, tuple[Lease, asyncio.Future[LeaseEnd]]] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self._keeping: set[asyncio.Task[None]] = set()
        self._over: list[Callable[[Lease], None]] = []
        self._closing = False

    def attach(self, over: Callable[[Lease], None]) -> None:
        """Let somebody be told of each lease that was given back."""
        self._over.append(over)

    def fulfilled(self, token: bytes) -> None:
        """Take note that the answer of a lease was stored: its holder may go."""
        held = self._held.get(token)
        if held is not None and not held[1].done():
            held[1].set_result(LeaseEnd.FULFILLED)

    def let_go(self, lease: Lease) -> None:
        """End a hold without giving the lease back: somebody else keeps it from now on."""
        held = self._held.get(lease.token)
        if held is not None and not held[1].done():
            held[1].set_result(LeaseEnd.LOST)

    async def renew(self, lease: Lease) -> bool:
        """Let a lease last its time to live from now. False: it is somebody else's, or over."""
        try:
            return await self._store.renew_lease(lease.key, lease.token, lease.ttl_s)
        except StoreError:
            # Nobody can take the lease while the store is away.
            self._failed(lease.key.namespace, "renew_lease")
            return True

    async def hold(self, lease: Lease, max_s: float) -> LeaseEnd:
        """Keep a lease until it ends; releases it if cancelled, or after ``max_s``."""
        ended = self._begin(lease)
        try:
            return await self._renew_until(ended, lease, max_s)
        finally:
            self._end(lease, ended)

    @contextmanager
    def kept(self, lease: Lease, max_s: float) -> Iterator[None]:
        """Hold a lease during the block, as ``hold`` does.

        Most answers come before the lease has to be renewed: until then there is no task.
        """
        ended, loop = self._begin(lease), asyncio.get_running_loop()
        first_s = lease.ttl_s / _RENEWALS_PER_TTL
        keeping: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal keeping
            keeping = loop.create_task(self._go_on(ended, lease, max_s - first_s))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)

        alarm = loop.call_later(first_s, begin)
        try:
            yield
        finally:
            alarm.cancel()
            if keeping is not None:
                keeping.cancel()
            self._end(lease, ended)

    def _begin(self, lease: Lease) -> asyncio.Future[LeaseEnd]:
        ended: asyncio.Future[LeaseEnd] = asyncio.get_running_loop().create_future()
        if self._closing:
            ended.set_result(LeaseEnd.LOST)
            self.release(lease)
            return ended
        return self._held.setdefault(lease.token, (lease, ended))[1]

    def _end(self, lease: Lease, ended: asyncio.Future[LeaseEnd]) -> None:
        self._held.pop(lease.token, None)
        if not ended.done():
            ended.set_result(LeaseEnd.LOST)
            self.release(lease)

    async def _go_on(self, ended: asyncio.Future[LeaseEnd], lease: Lease, max_s: float) -> None:
        if not ended.done() and await self.renew(lease):
            await self._renew_until(ended, lease, max_s)
        self._end(lease, ended)

    async def _renew_until(
        self, ended: asyncio.Future[LeaseEnd], lease: Lease, max_s: float
    ) -> LeaseEnd:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + max_s
        while not ended.done():
            pause_s = min(lease.ttl_s / _RENEWALS_PER_TTL, give_up_s - loop.time())
            done, _ = await asyncio.wait([ended], timeout=max(pause_s, 0))
            if done:
                break
            if loop.time() >= give_up_s or not await self.renew(lease):
                return LeaseEnd.LOST
        return ended.result()

    def release(self, lease: Lease) -> None:
        """Give a lease back in the background, so that the next in line can take over."""
        task = asyncio.get_running_loop().create_task(self._release(lease))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def close(self) -> None:
        """End all holds as lost, and wait until the leases are given back."""
        self._closing = True
        for lease, ended in self._held.values():
            if not ended.done():
                ended.set_result(LeaseEnd.LOST)
                self.release(lease)
        while under_way := self._releasing | self._keeping:
            await asyncio.wait(under_way)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._store.release_lease(lease.key, lease.token)
        except StoreError:
            # It expires by itself.
            self._failed(lease.key.namespace, "release_lease")
        for over in self._over:
            over(lease)
