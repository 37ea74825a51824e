"""Follows the store's feed of changes for as long as the sidecar runs.

While it is connected, other sidecars' invalidations arrive as they happen; while it is not, every
read asks the store. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from mge_cache_server.errors import StoreError
from mge_cache_server.store import Invalidated, RowStored, Settled, Subscribed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.epochs import Epochs
    from mge_cache_server.model import EntryKey
    from mge_cache_server.store import FeedEvent, Store

_log = logging.getLogger(__name__)

_RECONNECT_S = 0.25


class Waiters(Protocol):
    """Callers who wait for a lease to be over."""

    def settled(self, key: EntryKey) -> None:
        """Take note that it is."""


class Rows(Protocol):
    """Copies of the partitions' rows."""

    def row_stored(self, event: RowStored) -> None:
        """Take note of a new row."""

    def subscribed(self) -> None:
        """Take note that the feed is connected: before, rows may have been missed."""


class Feed:
    """Connects epochs, waiters and rows to the store's feed. ``failed()`` is told of its loss."""

    def __init__(
        self,
        store: Store,
        epochs: Epochs,
        *waiters: Waiters,
        rows: Rows | None = None,
        failed: Callable[[], None],
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._waiters = waiters
        self._rows = rows
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
                for each in self._waiters:
                    each.settled(key)
            case RowStored():
                if self._rows is not None:
                    self._rows.row_stored(event)
            case Subscribed():
                self._epochs.subscribed()
                if self._rows is not None:
                    self._rows.subscribed()
                await self._epochs.resync()
                if not self._connected:
                    self._connected = True
                    _log.info("feed of invalidations connected again")
