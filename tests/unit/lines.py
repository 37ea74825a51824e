"""The feed of one sidecar as a line that a test can hold up, cut, or let go silently dead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.store import Alive, FeedEvent, Subscribed
from tests.unit.scene import StageStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mge_cache_server.memory_store import MemoryStore


class LineStore(StageStore):
    """A store whose feed delivers when the test says so, in the order of its connection.

    ``handled(event)`` is called when the sidecar has done with an event. ``connected`` says that
    what happens now will be delivered some time; a line that is ``mute`` has lost its other end,
    and nobody has noticed.
    """

    def __init__(self, data: MemoryStore, *, handled: Callable[[FeedEvent], None]) -> None:
        super().__init__(data)
        self.cut = False
        self.mute = False
        self._handled = handled
        self._wire: asyncio.Queue[FeedEvent] | None = None
        self._arrived: asyncio.Queue[FeedEvent | None] = asyncio.Queue()

    @property
    def connected(self) -> bool:
        return self._wire is not None and not self.mute

    @property
    def under_way(self) -> int:
        """How many events are not delivered yet."""
        return 0 if self._wire is None else self._wire.qsize()

    async def feed(self) -> AsyncGenerator[FeedEvent, None]:
        if self.cut or self.down:
            raise StoreUnavailableError("cut")
        wire = self._wire = asyncio.Queue()
        self._arrived = asyncio.Queue()
        self.data._data.subscribers.add(wire)
        try:
            yield Subscribed()
            self._handled(Subscribed())
            while (event := await self._arrived.get()) is not None:
                yield event
                self._handled(event)
            raise StoreUnavailableError("cut")
        finally:
            self.data._data.subscribers.discard(wire)
            self._wire, self.mute = None, False

    def deliver(self, count: int) -> None:
        """Let some of the events arrive; if there are none, a sign of life."""
        if not self.connected or self._wire is None:
            return
        if not self._wire.qsize():
            self._arrived.put_nowait(Alive())
        for _ in range(min(count, self._wire.qsize())):
            self._arrived.put_nowait(self._wire.get_nowait())

    def fall_silent(self) -> None:
        """Lose what is under way and all that is to come, without anybody noticing."""
        if self._wire is not None:
            self.data._data.subscribers.discard(self._wire)
            self._wire = asyncio.Queue()
            self.mute = True

    def hang_up(self) -> None:
        """Break the connection, and keep it from being made again until ``cut`` is false."""
        self.cut = True
        self._arrived.put_nowait(None)
