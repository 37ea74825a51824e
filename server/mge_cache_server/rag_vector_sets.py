"""The search for similar queries by the store, in its vector sets: no rows in this process.

A vector set cannot let its elements expire, so that they are removed here: those that are over, a
few at each put and more in the background after a search; those that turn out to be dead, when
they are found, in the background too; and all of them at once when an invalidation of the whole
partition has made them worthless. What is left over expires with the key.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mge_cache_server.errors import StoreError
from mge_cache_server.model import EntryKey
from mge_cache_server.rag_thread import SearchThread
from mge_cache_server.statistics import RagIndexStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from mge_cache_server.epochs import Epochs
    from mge_cache_server.model import Partition
    from mge_cache_server.rag_neighbours import StoredQuery
    from mge_cache_server.redis_store_vectors import RedisVectors
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.store import Store

_T = TypeVar("_T")

KIND = "vector-sets"

PARTITIONS_MAX = 1024
"""How many are remembered; all there is to a partition here is a few numbers."""

_log = logging.getLogger(__name__)

_CANDIDATES = 16
_TEND_S = 10.0
"""How often a partition that is searched is cleaned up."""
_REMOVED_AT_ONCE = 256
"""It takes the server about 10 ms."""
_BACKGROUND_MAX = 64
"""Tasks that are under way. Whatever is dead beyond them will be found again."""
_SLACK = 2e-6
"""By how much a cosine of float32 numbers may be wrong."""
_UNTENDED = -2
"""Earlier than every floor."""


@dataclass(slots=True)
class _State:
    """What is known of a partition. ``floor``: nothing older than that tick is in it."""

    floor: int = _UNTENDED
    tended_s: float = float("-inf")
    rows: int = 0
    size_bytes: int = 0
    tending: bool = False


class VectorSets:
    """Implements ``Neighbours``. ``failed(namespace, operation)`` is told of failures.

    ``now`` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        store: Store,
        vectors: RedisVectors,
        epochs: Epochs,
        *,
        failed: Callable[[str, str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.thread = SearchThread()
        self._store = store
        self._vectors = vectors
        self._epochs = epochs
        self._failed = failed
        self._now = now
        self._states: dict[EntryKey, _State] = {}  # the one used last is the last
        self._background: set[asyncio.Task[None]] = set()
        self._works = True

    async def nearest(
        self, partition: Partition, vector: Floats, threshold: float
    ) -> AsyncGenerator[bytes, None]:
        """See ``Neighbours.nearest``: the nearest sixteen at most."""
        state = self._of(partition)
        if state.floor < self._floor(partition):
            # What an invalidation of the whole partition has left would fill all places.
            await self._tend(partition, state)
        search = self._vectors.search(partition.key, vector.tobytes(), _CANDIDATES)
        found = await self._call(partition, "search_vectors", search)
        self._tend_soon(partition, state)
        for digest, cosine in found:
            if cosine < threshold - _SLACK:
                return
            yield digest

    async def keep(self, partition: Partition, query: StoredQuery, *, shared: bool) -> None:
        """See ``Neighbours.keep``; one that is not shared is not found at all."""
        if not shared:
            return
        state = self._of(partition)
        put = self._vectors.put(
            partition.key,
            query.digest,
            query.vector.tobytes(),
            tick=query.tick,
            floor=self._floor(partition),
            ttl_s=query.ttl_s,
        )
        with suppress(StoreError):  # counted; the result is a hit for the same query
            state.rows = await self._call(partition, "put_vector", put)
            self._tend_soon(partition, state)

    def drop(self, partition: Partition, digest: bytes) -> None:
        """See ``Neighbours.drop``."""
        if len(self._background) < _BACKGROUND_MAX:
            self._run(self._drop(partition, digest))

    def statistics(self) -> RagIndexStatistics:
        """See ``Neighbours.statistics``: the partitions used here, as they were last seen."""
        states = self._states.values()
        return RagIndexStatistics(
            kind=KIND,
            partitions=len(states),
            rows=sum(each.rows for each in states),
            size_bytes=sum(each.size_bytes for each in states),
        )

    async def close(self) -> None:
        """See ``Neighbours.close``."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.thread.close()

    def _of(self, partition: Partition) -> _State:
        state = self._states.pop(partition.key, None) or _State()
        self._states[partition.key] = state
        if len(self._states) > PARTITIONS_MAX:
            del self._states[next(iter(self._states))]
        return state

    def _floor(self, partition: Partition) -> int:
        return self._epochs.of(partition.key.namespace).floor(partition.tags)

    def _tend_soon(self, partition: Partition, state: _State) -> None:
        if not state.tending and self._now() - state.tended_s >= _TEND_S:
            state.tending = True
            self._run(self._clean(partition, state))

    async def _clean(self, partition: Partition, state: _State) -> None:
        try:
            while await self._tend(partition, state) == _REMOVED_AT_ONCE:
                pass
        except StoreError:
            state.tended_s = self._now()  # counted; not again at once
        finally:
            state.tending = False

    async def _tend(self, partition: Partition, state: _State) -> int:
        floor = self._floor(partition)
        tend = self._vectors.tend(partition.key, floor=floor, at_most=_REMOVED_AT_ONCE)
        state.rows, state.size_bytes, removed = await self._call(partition, "tend_vectors", tend)
        state.floor = max(state.floor, floor)
        state.tended_s = self._now()
        return removed

    async def _drop(self, partition: Partition, digest: bytes) -> None:
        # In this order, as who stores a result puts its entry first, then its vector: a vector
        # that was put since its end was read has another end, and one put before it an entry.
        vectors, key = self._vectors, EntryKey(partition.key.namespace, digest)
        with suppress(StoreError):
            end = await self._call(partition, "drop_vector", vectors.end_of(partition.key, digest))
            if end is None:
                return
            found = await self._call(partition, "lookup", self._store.lookup(key))
            if found.record is None:
                drop = vectors.drop(partition.key, digest, end)
                await self._call(partition, "drop_vector", drop)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _call(self, partition: Partition, operation: str, call: Awaitable[_T]) -> _T:
        try:
            done = await call
        except StoreError as exc:
            self._failed(partition.key.namespace, operation)
            if self._works and self._store.available:
                self._works = False
                _log.warning("vector sets cannot be used", extra={"reason": str(exc)})
            raise
        if not self._works:
            self._works = True
            _log.info("vector sets can be used again")
        return done
