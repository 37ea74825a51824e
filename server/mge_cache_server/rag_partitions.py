"""The partitions that this sidecar serves, within bounds on rows and bytes.

A partition is loaded at its first use, in the background: until then its queries get exact hits or
misses. When the bounds are reached, rows leave from the partition that was not used for longest;
within a partition the least valuable ones. An invalidation of a partition as a whole (its
collection, its embedding model, its namespace) empties it, and it is loaded anew without the rows
that are older.

Belongs to the event loop's thread; what takes longer than about a millisecond runs in another.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreError
from mge_cache_server.rag_codec import pack_row
from mge_cache_server.rag_index import Bounds, Fullness, PartitionIndex, Surroundings
from mge_cache_server.rag_thread import SearchThread
from mge_cache_server.statistics import RagIndexStatistics
from mge_cache_server.store import Row

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mge_cache_server.epochs import Epochs
    from mge_cache_server.model import EntryKey, Partition
    from mge_cache_server.rag_neighbours import StoredQuery
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.similarity_survivors import Match
    from mge_cache_server.store import RowStored, Store

PARTITIONS_MAX = 1024
"""Each takes some memory even if it is nearly empty."""

_COMPACT_SLACK = 6e-4
"""By how much float16 rows may hide a cosine; what is found is verified in float32."""


_REST_S = 0.001


async def _rest() -> None:
    await asyncio.sleep(_REST_S)


class Partitions:
    """Implements ``Neighbours``. ``failed(namespace, operation)`` is told of failures.

    ``rest()`` is awaited between two pages of a load.
    """

    def __init__(
        self,
        store: Store,
        epochs: Epochs,
        *,
        bounds: Bounds,
        failed: Callable[[str, str], None],
        rest: Callable[[], Awaitable[None]] = _rest,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = bounds.bytes_max
        self._epochs = epochs
        self._writer = store.writer
        self._now = now
        self._slack = _COMPACT_SLACK if bounds.compact else 0.0
        self.thread = SearchThread()
        self._tender = ThreadPoolExecutor(1, "mge-tend")  # so that no search waits for upkeep
        self._fullness = Fullness()
        self._around = Surroundings(
            *(store, bounds, self._fullness, self._tender, failed, self._bound, rest, now)
        )
        self._partitions: dict[EntryKey, PartitionIndex] = {}  # the one used last is the last
        self._left_out = 0

    def __len__(self) -> int:
        """Return the number of partitions in memory."""
        return len(self._partitions)

    @property
    def rows(self) -> int:
        """How many rows there are in all partitions."""
        return sum(each.index.rows for each in self._partitions.values())

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return sum(each.index.size_bytes for each in self._partitions.values())

    @property
    def left_out(self) -> int:
        """How many rows had to leave, or were not let in, because of the bounds."""
        return self._left_out + sum(each.index.left_out for each in self._partitions.values())

    def statistics(self) -> RagIndexStatistics:
        """See ``Neighbours.statistics``."""
        return RagIndexStatistics(
            partitions=len(self),
            rows=self.rows,
            size_bytes=self.size_bytes,
            max_bytes=self.max_bytes,
            left_out=self.left_out,
        )

    async def nearest(
        self, partition: Partition, vector: Floats, threshold: float
    ) -> AsyncGenerator[bytes, None]:
        """See ``Neighbours.nearest``. It asks nobody, so it does not fail."""
        looked_at: set[bytes] = set()
        while True:
            match = await self.search(
                partition, vector, threshold - self._slack, lambda key: key not in looked_at
            )
            if match is None:
                return
            looked_at.add(match.key)
            yield match.key

    async def search(
        self,
        partition: Partition,
        vector: Floats,
        threshold: float,
        admits: Callable[[bytes], bool],
    ) -> Match | None:
        """Find the most similar row; see ``SimilarityIndex.search``."""
        found = self._of(partition)
        index = found.index
        match = await self.thread.compute(
            index.rows * partition.dimension, lambda: index.search(vector, threshold, admits)
        )
        found.tend()
        return match

    async def keep(self, partition: Partition, query: StoredQuery, *, shared: bool) -> None:
        """See ``Neighbours.keep``; one that is not shared is found by this sidecar."""
        self.add(partition, query.digest, query.vector, query.ttl_s)
        if not shared:
            return
        content = pack_row(query.tick, query.vector.tobytes())
        row = Row(query.digest, content, query.ttl_s)
        try:
            await self._around.store.put_row(partition.key, row)
        except StoreError:
            # Other sidecars have the result for the same query, but not for similar ones.
            self._around.failed(partition.key.namespace, "put_row")

    def add(self, partition: Partition, digest: bytes, vector: Floats, ttl_s: float) -> None:
        """Add a row that this sidecar stores."""
        found = self._of(partition)
        found.add(digest, vector, self._now() + ttl_s)
        self._bound()
        found.tend()

    def drop(self, partition: Partition, digest: bytes) -> None:
        """Forget a row whose entry is dead."""
        found = self._partitions.get(partition.key)
        if found is not None:
            found.drop(digest)

    def row_stored(self, event: RowStored) -> None:
        """Take note of a row that was put into the store."""
        found = self._partitions.get(event.partition)
        if found is not None and event.writer != self._writer:
            found.put_by_other(event.digest)

    def subscribed(self) -> None:
        """Take note that the feed is connected: before, rows may have been missed."""
        for each in self._partitions.values():
            each.missed()

    async def close(self) -> None:
        """End what is under way."""
        tasks = [task for each in self._partitions.values() for task in each.end()]
        if tasks:
            await asyncio.wait(tasks)
        await self.thread.close()
        self._tender.shutdown(cancel_futures=True)

    def _of(self, partition: Partition) -> PartitionIndex:
        floor = self._epochs.of(partition.key.namespace).floor(partition.tags)
        found = self._partitions.pop(partition.key, None)
        if found is not None and found.floor < floor:
            self._forget(found)
            found = None
        if found is None:
            found = PartitionIndex(partition, floor, self._around)
        self._partitions[partition.key] = found
        while len(self._partitions) > PARTITIONS_MAX:
            oldest = self._partitions.pop(next(iter(self._partitions)))
            self._left_out += oldest.index.rows
            self._forget(oldest)
        found.catch_up()
        return found

    def _forget(self, partition: PartitionIndex) -> None:
        self._left_out += partition.index.left_out
        partition.end()

    def _bound(self) -> None:
        # Each index by itself keeps the bounds; that all of them together do is seen to here. As
        # many rows leave at once, it is not often that all partitions are looked at.
        if self._fullness.excess <= 0:
            return
        for each in self._partitions.values():
            self._left_out += each.shed(self._fullness.excess)
            each.tend()
            if self._fullness.excess <= 0:
                return
