"""Collects what a store's feed reports."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mge_cache_server.store import Alive, Invalidated, Settled, Subscribed
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache_server.store import FeedEvent, Store


class Listener:
    """What a feed has reported so far."""

    def __init__(self) -> None:
        self.events: list[FeedEvent] = []

    @property
    def invalidations(self) -> list[Invalidated]:
        return [event for event in self.events if isinstance(event, Invalidated)]

    @property
    def settled(self) -> list[Settled]:
        return [event for event in self.events if isinstance(event, Settled)]

    @property
    def alive(self) -> int:
        return sum(isinstance(event, Alive) for event in self.events)

    async def collect(self, store: Store) -> None:
        async for event in store.feed():
            self.events.append(event)


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[Listener]:
    """Listen to a store's feed from its first event on; raises its error, if any, at the end."""
    listener = Listener()
    task = asyncio.create_task(listener.collect(store))
    try:
        await eventually(lambda: task.done() or Subscribed() in listener.events)
        if task.done():
            task.result()
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
