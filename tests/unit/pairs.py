"""Two sidecars' prompt caches on one store, without the sidecars."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mge_cache_server.memory_store import MemoryStore
from tests.unit.caches import Cache
from tests.unit.scene import Clock, StageStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mge_cache_server.entry_cache import CachePolicy

T = TypeVar("T")


class Pair:
    """Two sidecars on one store."""

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self.clock = Clock()
        self.data = MemoryStore(now=self.clock)
        self.cache = Cache(StageStore(self.data), self.clock, policy=policy)
        self.other = Cache(StageStore(self.data.sibling()), self.clock, policy=policy)

    async def connect(self) -> None:
        for each in (self.cache, self.other):
            each.epochs.of("ns")
            await each.connect()
            each.store.calls.clear()


def begin(coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(coroutine)
