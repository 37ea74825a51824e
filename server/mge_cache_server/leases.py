"""Leases that callers hold by an open call, and giving leases back.

A held lease is renewed every third of its time. When the call ends without the answer having been
stored, the lease is released at once, and the next caller in line takes over. Belongs to the event
loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreError
from mge_cache_server.model import LeaseEnd

if TYPE_CHECKING:
    from collections.abc import Callable

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
        if self._closing:
            self.release(lease)
            return LeaseEnd.LOST
        loop = asyncio.get_running_loop()
        _, ended = self._held.setdefault(lease.token, (lease, loop.create_future()))
        give_up_s = loop.time() + max_s
        try:
            while True:
                pause_s = min(lease.ttl_s / _RENEWALS_PER_TTL, give_up_s - loop.time())
                done, _ = await asyncio.wait([ended], timeout=max(pause_s, 0))
                if done:
                    return ended.result()
                if loop.time() >= give_up_s or not await self.renew(lease):
                    return LeaseEnd.LOST
        finally:
            self._held.pop(lease.token, None)
            if not ended.done():
                self.release(lease)

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
        while self._releasing:
            await asyncio.wait(self._releasing)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._store.release_lease(lease.key, lease.token)
        except StoreError:
            # It expires by itself.
            self._failed(lease.key.namespace, "release_lease")
        for over in self._over:
            over(lease)
