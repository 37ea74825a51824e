"""Follows the store's feed of changes for as long as the sidecar runs.

While it is connected, other sidecars' invalidations arrive as they happen; while it is not, every
read asks the store. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreError
from mge_cache_server.store import Invalidated, Settled, Subscribed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.epochs import Epochs
    from mge_cache_server.flights import Flights
    from mge_cache_server.store import FeedEvent, Store

_log = logging.getLogger(__name__)

_RECONNECT_S = 0.25


class Feed:
    """Connects epochs and flights to the store's feed. ``failed()`` is told when it is lost."""

    def __init__(
        self, store: Store, epochs: Epochs, flights: Flights, *, failed: Callable[[], None]
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._flights = flights
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._connected = True

    def start(self) -> None:
        """Connect in the background, again and again if need be."""
        self._task = asyncio.get_running_loop().create_task(self._follow())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            # A defect of ours. Without a feed, every read asks the store.
            self._epochs.lost()
            _log.error("feed of invalidations has failed", exc_info=failure)

    async def _follow(self) -> None:
        while True:
            try:
                async with aclosing(self._store.feed()) as events:
                    async for event in events:
                        await self._handle(event)
                reason = "closed"
            except StoreError as exc:
                reason = str(exc)
            self._epochs.lost()
            if self._connected:
                self._connected = False
                self._failed()
                _log.warning("feed of invalidations lost", extra={"reason": reason})
            await asyncio.sleep(_RECONNECT_S)

    async def _handle(self, event: FeedEvent) -> None:
        self._epochs.heard()
        match event:
            case Invalidated():
                self._epochs.apply(event)
            case Settled(key):
                self._flights.settled(key)
            case Subscribed():
                self._epochs.subscribed()
                await self._epochs.resync()
                if not self._connected:
                    self._connected = True
                    _log.info("feed of invalidations connected again")
