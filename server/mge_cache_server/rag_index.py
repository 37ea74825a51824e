"""One partition in this sidecar's memory: a copy of the store's rows, searchable.

It is loaded in pages, in the background. The feed tells which rows others put meanwhile and later;
when rows may have been missed (``stale``), the digests are compared and what is missing is
fetched.

Belongs to the event loop's thread. Loading gives way to all else there: a page takes a few tenths
of a millisecond, and a rest of a millisecond or two follows. What takes longer (memory for the rows
to come, upkeep of the index) runs in another thread, and meanwhile no page is read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mge_cache_server import rag_codec
from mge_cache_server.codec import RecordError
from mge_cache_server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from mge_cache_server.model import Partition
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.similarity_work import Work
    from mge_cache_server.store import Row, Store

READ_BYTES = 32 * 1024
"""Of rows at a time: they are read and added to the index in a fifth of a millisecond."""
_RETRY_S = 1.0
_WHOLE = 1 << 62  # so fine that what its quotients leave over is no row, in a million


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of all partitions together. ``compact``: rows are kept in float16."""

    rows_max: int
    bytes_max: int
    compact: bool


class Fullness:
    """What all partitions together take of the bounds, in parts of a whole.

    Whole numbers: a sum of fractions is a row off now and then, and cannot be kept up to date.
    """

    def __init__(self) -> None:
        self._taken = 0

    def add(self, parts: int) -> None:
        """Take note of rows that came (or went: less than 0)."""
        self._taken += parts

    @property
    def excess(self) -> int:
        """How much it is too much; 0 or less if all is well."""
        return self._taken - _WHOLE


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all partitions of a sidecar have in common.

    ``failed(namespace, operation)`` is told of failures, ``grown()`` of rows that were fetched;
    ``now`` is a monotonic clock in seconds. ``rest()`` is awaited between two pages of a load.
    """

    store: Store
    bounds: Bounds
    fullness: Fullness
    tender: Executor
    failed: Callable[[str, str], None]
    grown: Callable[[], None]
    rest: Callable[[], Awaitable[None]]
    now: Callable[[], float]


class _Found(NamedTuple):
    """Rows as they were read."""

    digests: list[bytes]
    vectors: list[memoryview]
    expires_s: list[float]


class PartitionIndex:
    """A partition's rows, without those whose entries are older than ``floor`` (a tick)."""

    def __init__(self, partition: Partition, floor: int, around: Surroundings) -> None:
        from mge_cache_server.similarity import SimilarityIndex  # noqa: PLC0415 - imports numpy

        self.floor = floor
        self.index = SimilarityIndex(
            partition.dimension,
            rows_max=around.bounds.rows_max,
            bytes_max=around.bounds.bytes_max,
            compact=around.bounds.compact,
            now=around.now,
        )
        self._partition = partition
        self._around = around
        self._parts = _WHOLE // max(1, self.index.rows_max)
        self._counted = 0
        self._stale = True
        self._retry_s = around.now()
        self._wanted: set[bytes] = set()
        self._seen = 0
        self._kept = 0
        self._filling: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    def catch_up(self) -> None:
        """See to it that a copy with rows missing is completed; soon again after a failure."""
        if self._stale and self._retry_s <= self._around.now():
            self._fill_soon()

    def missed(self) -> None:
        """Take note that rows may have been missed."""
        self._stale = True
        self._fill_soon()

    def put_by_other(self, digest: bytes) -> None:
        """Take note of a row that another sidecar put into the store."""
        self._wanted.add(digest)
        self._fill_soon()

    def add(self, digest: bytes, vector: Floats, expires_s: float) -> None:
        """Add a row that this sidecar stores."""
        self.index.add(digest, vector, expires_s=expires_s)
        self._count()

    def drop(self, digest: bytes) -> None:
        """Remove a row, if it is there."""
        self.index.remove(digest)
        self._count()

    def shed(self, excess: int) -> int:
        """Let rows go until others have as much room as this; return how many went."""
        gone = len(self.index.shed(-(-excess // self._parts))) if self.index.rows else 0
        self._count()
        return gone

    def tend(self) -> None:
        """Remove rows whose time is over, and do what is due for speed and memory."""
        self.index.expire()
        self._count()
        if self._tending is None or self._tending.done():
            work = self.index.due(self._coming())
            if work is not None:
                self._tending = asyncio.get_running_loop().create_task(self._work(work))

    def end(self) -> list[asyncio.Task[None]]:
        """Stop what is under way, for good; returns the tasks that are ending."""
        self._around.fullness.add(-self._parts * self._counted)
        self._parts = 0
        tasks = [each for each in (self._filling, self._tending) if each and not each.done()]
        for task in tasks:
            task.cancel()
        return tasks

    def _fill_soon(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        operation = "list_rows"
        try:
            while self._stale or self._wanted:
                if self._stale:
                    operation, self._stale = "list_rows", False
                    await self._list()
                else:
                    operation = "read_rows"
                    await self._fetch()
        except StoreError:
            self._failed(operation)
            self._stale = True
            self._retry_s = self._around.now() + _RETRY_S

    async def _list(self) -> None:
        cursor = 0
        while True:
            page = await self._around.store.list_rows(self._partition.key, cursor)
            self._wanted.update(each for each in page.remaining_s if each not in self.index)
            cursor = page.cursor
            if not cursor:
                return
            await self._around.rest()

    async def _fetch(self) -> None:
        if self._tending is not None and not self._tending.done():
            await asyncio.wait([self._tending])
        count = max(1, READ_BYTES // (self._partition.dimension * rag_codec.FLOAT_BYTES))
        digests = [self._wanted.pop() for _ in range(min(count, len(self._wanted)))]
        asked_s = self._around.now()
        rows = await self._around.store.read_rows(self._partition.key, digests)
        found = self._unpack(rows, asked_s)
        self._seen += len(rows)
        self._kept += len(found.digests)
        await self._make_room(len(found.digests) + self._coming())
        self._take(found)
        self._count()
        self._around.grown()
        self.tend()
        if self._wanted:
            await self._around.rest()

    def _coming(self) -> int:
        """Guess how many rows will be added soon: after an invalidation, most may be too old."""
        return len(self._wanted) * self._kept // max(1, self._seen)

    async def _make_room(self, coming: int) -> None:
        room = self.index.room(coming)
        if room is not None:
            await asyncio.get_running_loop().run_in_executor(self._around.tender, room.run)
            self.index.use(room)

    def _unpack(self, rows: list[Row], asked_s: float) -> _Found:
        found = _Found([], [], [])
        for row in rows:
            try:
                tick, vector = rag_codec.unpack_row(row.content, self._partition.dimension)
            except RecordError:
                self._failed("decode")
                continue
            if tick >= self.floor:
                found.digests.append(row.digest)
                found.vectors.append(vector)
                found.expires_s.append(asked_s + row.remaining_s)
        return found

    def _take(self, found: _Found) -> None:
        from mge_cache_server.rag_vectors import matrix, of_unit_length  # noqa: PLC0415 - numpy

        vectors = matrix(b"".join(found.vectors), self._partition.dimension)
        try:
            self.index.extend(found.digests, vectors, found.expires_s)
        except ValueError:
            # Somebody else has written here what is not of unit length.
            good = of_unit_length(vectors)
            for _ in range(len(vectors) - len(good)):
                self._failed("decode")
            self.index.extend(
                [found.digests[place] for place in good],
                vectors[good],
                [found.expires_s[place] for place in good],
            )

    def _count(self) -> None:
        rows = self.index.rows
        self._around.fullness.add(self._parts * (rows - self._counted))
        self._counted = rows

    async def _work(self, first: Work) -> None:
        loop = asyncio.get_running_loop()
        work: Work | None = first
        while work is not None:
            try:
                await loop.run_in_executor(self._around.tender, work.run)
            finally:
                self.index.settle(work)
            work = self.index.due(self._coming())

    def _failed(self, operation: str) -> None:
        self._around.failed(self._partition.key.namespace, operation)
