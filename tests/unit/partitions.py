"""The partitions of a sidecar without the sidecar: on a store in memory, with an injected clock."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mge_cache_server import rag_codec
from mge_cache_server.epochs import Epochs
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import EntryKey, Partition
from mge_cache_server.rag_index import Bounds
from mge_cache_server.rag_partitions import Partitions
from mge_cache_server.store import Row
from tests.unit.scene import Clock, StageStore, digest, turns
from tests.unit.vectors import vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mge_cache_server.similarity import Match
    from mge_cache_server.similarity_basis import Floats

T = TypeVar("T")

DIMENSION = 8
TAG = "collection:faq"
TICK = 100
FAR_S = 1000.0


def partition(number: int = 1, dimension: int = DIMENSION) -> Partition:
    return Partition(EntryKey("ns", digest(number)), dimension, (TAG,))


class CountingStore(StageStore):
    """Notes how many rows were asked for at a time."""

    def __init__(self, data: MemoryStore) -> None:
        super().__init__(data)
        self.asked: list[int] = []

    async def read_rows(self, partition: EntryKey, digests: Sequence[bytes]) -> list[Row]:
        self.asked.append(len(digests))
        return await super().read_rows(partition, digests)


class GatedExecutor(ThreadPoolExecutor):
    """A thread that does nothing before its gate is open. ``submitted`` counts what it got."""

    def __init__(self) -> None:
        super().__init__(1, "gated")
        self.gate = threading.Event()
        self.submitted = 0

    def submit(  # type: ignore[override]  # the loop passes a call without arguments
        self, call: Callable[[], T], /
    ) -> Future[T]:
        self.submitted += 1

        def later() -> T:
            if not self.gate.wait(60):
                raise TimeoutError("the test has not opened the gate")
            return call()

        return super().submit(later)


class Scene:
    """Partitions and their store; ``failed`` are the operations that failed."""

    def __init__(
        self, *, rows_max: int = 10_000, bytes_max: int = 1 << 40, compact: bool = False
    ) -> None:
        self.clock = Clock(0.0)
        self.store = CountingStore(MemoryStore(now=self.clock))
        self.other = self.store.data.sibling()
        self.failed: list[str] = []
        self.rests = 0
        self.epochs = Epochs(
            self.store, retention_s=1e6, timeout_s=1.0, on_regress=lambda _: None, now=self.clock
        )
        self.bounds = Bounds(rows_max, bytes_max, compact)
        self.partitions = Partitions(
            self.store,
            self.epochs,
            bounds=self.bounds,
            failed=lambda _, operation: self.failed.append(operation),
            rest=self.rest,
            now=self.clock,
        )

    async def rest(self) -> None:
        """What a load does between two pages; takes no time here."""
        self.rests += 1
        await asyncio.sleep(0)

    async def put(
        self, number: int, row: Floats, *, of: Partition, tick: int = TICK, ttl_s: float = FAR_S
    ) -> None:
        """Put a row into the store, as another sidecar does."""
        packed = rag_codec.pack_row(tick, row.tobytes())
        await self.other.put_row(of.key, Row(digest(number), packed, ttl_s))

    async def put_many(self, rows: Floats, *, of: Partition) -> None:
        for number, row in enumerate(rows):
            await self.put(number, row, of=of)

    async def find(self, row: Floats, *, of: Partition) -> bytes | None:
        """Return the key of the very same row, if it is there."""
        found = await self.search(row, of=of)
        return None if found is None else found.key

    async def search(
        self, row: Floats, *, of: Partition, admits: Callable[[bytes], bool] = lambda _: True
    ) -> Match | None:
        return await self.partitions.search(of, row, 0.9999, admits)

    async def load(self, *, of: Partition) -> None:
        """Use a partition for the first time, and wait until it is loaded."""
        await self.partitions.search(of, some(1, of.dimension)[0], 0.9999, lambda _: False)
        await turns(200)

    def invalidate(self, tick: int) -> None:
        """Let this sidecar know of an invalidation of the collection."""
        self.epochs.of("ns").merge([(TAG, tick)], 10**15)


def some(count: int, dimension: int = DIMENSION, seed: int = 1) -> Floats:
    return vectors("random", count, dimension, seed)
