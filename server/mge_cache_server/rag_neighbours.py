"""What the RAG cache asks of a search for similar queries: in memory, or in the store.

``rag_partitions.Partitions`` and ``rag_vector_sets.VectorSets`` implement it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mge_cache_server.model import Partition
    from mge_cache_server.rag_thread import SearchThread
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.statistics import RagIndexStatistics


class StoredQuery(NamedTuple):
    """A query whose result was stored. ``vector`` has unit length, ``tick`` is the entry's."""

    digest: bytes
    vector: Floats
    tick: int
    ttl_s: float


class Neighbours(Protocol):
    """Finds stored queries that are similar to another. What it finds may be dead already.

    Failures of the store are counted before they are raised.
    """

    thread: SearchThread

    def nearest(
        self, partition: Partition, vector: Floats, threshold: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield digests of queries whose cosine is about ``threshold`` or more, nearest first.

        Raises StoreError where the store had to be asked and failed.
        """

    async def keep(self, partition: Partition, query: StoredQuery, *, shared: bool) -> None:
        """Add a query. ``shared``: its entry is in the store, so other sidecars are to find it."""

    def drop(self, partition: Partition, digest: bytes) -> None:
        """Take note that a query that was found has no valid entry."""

    def statistics(self) -> RagIndexStatistics:
        """Return what is reported of it; nothing of hits."""

    async def close(self) -> None:
        """End what is under way."""
