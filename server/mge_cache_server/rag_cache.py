"""The RAG cache: what a retrieval found, for the same query or for a similar one.

A QueryRAG goes through these in order: the same query in memory, in the store; a similar query in
the partition's index, whose entry is read and checked like any other; then the flight, which hands
out the lease or waits for who has it. Belongs to the event loop's thread.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mge_cache_server import rag_codec
from mge_cache_server.entry_cache import EntryCache, count_hit
from mge_cache_server.errors import InvalidRequestError, StoreError
from mge_cache_server.model import (
    RAG_LAYER,
    SIMILAR_LAYER,
    EntryKey,
    Hit,
    Miss,
    RagEntry,
    RagHit,
    SetOutcome,
    SetStatus,
)
from mge_cache_server.rag_embedding import check_embedding, no_direction
from mge_cache_server.rag_neighbours import StoredQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mge_cache_server.counts import LayerCounts
    from mge_cache_server.entry_cache import CachePolicy, Parts
    from mge_cache_server.epochs import NamespaceEpochs
    from mge_cache_server.model import Lease, Partition, Retrieval
    from mge_cache_server.rag_neighbours import Neighbours
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.statistics import RagIndexStatistics

_CANDIDATES_MAX = 16
"""How many similar queries are looked at: the first one nearly always will do."""


@dataclass(frozen=True, slots=True)
class RagPolicy:
    """What an operator decides about similar hits. Thresholds are cosines.

    ``rerank_threshold`` None: as ``threshold``. A collection's own threshold stands for both.
    """

    threshold: float
    rerank_threshold: float | None
    collection_thresholds: Mapping[str, float]
    store_texts: bool

    def least(self, collection: str, *, reranked: bool) -> float:
        """Return the least cosine of a similar hit."""
        own = self.collection_thresholds.get(collection)
        if own is not None:
            return own
        if reranked and self.rerank_threshold is not None:
            return self.rerank_threshold
        return self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class RagQuery:
    """What is asked for. ``embedding`` is as the caller sent it; see ``QueryRAG`` for the rest."""

    key: EntryKey
    partition: Partition
    collection: str
    embedding: bytes
    top_k: int
    min_similarity: float
    allow_similar: bool
    certified_only: bool

    def fits(self, entry: RagEntry) -> bool:
        """Whether a result was stored for as many documents as are asked for."""
        return entry.answer.top_k >= self.top_k


class RagCache(EntryCache[RagEntry]):
    """Answers queries, stores results."""

    def __init__(
        self, parts: Parts, *, policy: CachePolicy, similar: RagPolicy, neighbours: Neighbours
    ) -> None:
        super().__init__(parts, layer=RAG_LAYER, kind=RagEntry, codec=rag_codec, policy=policy)
        self._similar = similar
        self._neighbours = neighbours
        self.reranked_hits = 0
        self.certified_hits = 0

    async def query(
        self, asked: RagQuery, *, wait_s: float, lease_ttl_s: float, asks_again: bool = False
    ) -> RagHit | Miss:
        """Look a result up; see ``QueryRAG``. Raises InvalidRequestError for the embedding."""
        known = self._namespace(asked.key.namespace)
        counts = self._count(asked.key.namespace)
        if not self._policy.enabled:
            counts.misses += 1
            return Miss()
        vector: Floats | None = None
        if self._neighbours.thread.is_ready():
            vector = await self._unit(asked.embedding)
        else:
            # The first callers do not wait for the libraries: the same query is found without.
            check_embedding(asked.embedding)
        searched = vector is not None and asked.allow_similar
        failed = False
        found: Hit[RagEntry] | Miss | None = await self._same(asked, known)
        if found is None and vector is not None and asked.allow_similar:
            try:
                similar = await self._most_similar(asked, vector)
            except StoreError:
                similar, failed = None, True
            if similar is not None:
                return similar
        if found is None:
            found = await self._fly(asked, wait_s, lease_ttl_s)
            counted = isinstance(found, Hit) or not (found.in_progress and asks_again)
            self._similar_counts(asked).misses += counted and searched
        if isinstance(found, Miss):
            counts.misses += not (found.in_progress and asks_again)
            return replace(found, degraded=True) if failed else found
        count_hit(counts, found.entry.answer)
        return RagHit(found, found.entry.answer.documents[: asked.top_k])

    async def store(
        self,
        key: EntryKey,
        partition: Partition,
        found: Retrieval,
        *,
        exact_search: bool,
        tags: tuple[str, ...],
        ttl_s: float,
        lease: Lease | None,
        bought: bool,
    ) -> SetOutcome:
        """Store a result, embeddings as the caller sent them; see ``StoreRAG``.

        ``ttl_s`` 0 means the default. Raises InvalidRequestError for an embedding.
        """
        if not self._policy.enabled:
            return SetOutcome(SetStatus.DISABLED, 0.0, found.cost_usd)
        self._namespace(key.namespace)
        vector = await self._unit(found.embedding)
        found = self._as_kept(found, vector, exact_search=exact_search)
        if bought:
            counts = self._count(key.namespace)
            counts.spent_usd += found.cost_usd
            counts.computed_s += found.compute_s
        ttl_s = self._ttl_s(key.namespace, ttl_s)
        status, tick = await self._keep(
            key,
            lambda tick, created_ms: RagEntry(found, tick, created_ms, tags, partition.key.digest),
            tags=tags,
            ttl_s=ttl_s,
            lease=lease,
        )
        if status is SetStatus.OVERTAKEN:
            return SetOutcome(status, 0.0, found.cost_usd)
        stored = StoredQuery(key.digest, vector, tick, ttl_s)
        await self._neighbours.keep(partition, stored, shared=status is SetStatus.STORED)
        return SetOutcome(status, ttl_s, found.cost_usd)

    def index_statistics(self) -> RagIndexStatistics:
        """Return what is reported of the search for similar queries."""
        return replace(
            self._neighbours.statistics(),
            reranked_hits=self.reranked_hits,
            certified_hits=self.certified_hits,
        )

    async def close(self) -> None:
        """End all waits, searches and loading."""
        await super().close()
        await self._neighbours.close()

    async def _unit(self, embedding: bytes) -> Floats:
        await self._neighbours.thread.ready()
        from mge_cache_server.rag_vectors import unit  # noqa: PLC0415 - imports numpy

        try:
            return unit(embedding)
        except ValueError:
            raise no_direction() from None

    def _as_kept(self, found: Retrieval, vector: Floats, *, exact_search: bool) -> Retrieval:
        from mge_cache_server import rag_vectors  # noqa: PLC0415 - imports numpy

        radius = None
        if found.embeddings:
            documents = rag_vectors.matrix(found.embeddings, len(vector))
            if not rag_vectors.have_direction(documents):
                problem = "embeddings must be finite and not zero"
                raise InvalidRequestError("documents", problem)
            radius = rag_vectors.radius(vector, documents) if exact_search else None
        query = found.query if self._similar.store_texts else ""
        return replace(found, embedding=vector.tobytes(), radius=radius, query=query)

    async def _same(self, asked: RagQuery, known: NamespaceEpochs) -> Hit[RagEntry] | None:
        key = asked.key
        found = self._from_memory(key, known) or await self._checked_memory(key)
        if found is not None and asked.fits(found.entry):
            return found
        if found is None and not asked.allow_similar:
            return None  # the flight asks the store anyway
        try:
            stored = await self._read(key, None, asked.fits)
        except StoreError:
            return None
        return stored if isinstance(stored, Hit) else None

    async def _most_similar(self, asked: RagQuery, vector: Floats) -> RagHit | None:
        """Return the most similar valid result that meets what is asked for."""
        least = min(self._least(asked, reranked=False), self._least(asked, reranked=True))
        async with aclosing(self._neighbours.nearest(asked.partition, vector, least)) as nearest:
            looked_at = 0
            async for digest in nearest:
                found = await self._recall(asked.partition, digest)
                hit = await self._judge(asked, vector, found) if found is not None else None
                if hit is not None:
                    self._count_similar(asked, hit)
                    return hit
                looked_at += 1
                if looked_at == _CANDIDATES_MAX:
                    break
        return None

    async def _recall(self, partition: Partition, digest: bytes) -> Hit[RagEntry] | None:
        key = EntryKey(partition.key.namespace, digest)
        known = self._epochs.of(key.namespace)
        found = self._from_memory(key, known) or await self._checked_memory(key)
        if found is not None:
            return found
        try:
            stored = await self._read(key, None)
        except StoreError:
            return None
        if isinstance(stored, Hit):
            return stored
        self._neighbours.drop(partition, digest)
        return None

    async def _judge(self, asked: RagQuery, vector: Floats, found: Hit[RagEntry]) -> RagHit | None:
        """Say whether a similar query's result will do, with its documents as they will do."""
        from mge_cache_server import rag_vectors  # noqa: PLC0415 - imports numpy

        result = found.entry.answer
        similarity = rag_vectors.cosine(vector, result.embedding)
        reranked = bool(result.embeddings)
        if not asked.fits(found.entry) or similarity < self._least(asked, reranked=reranked):
            return None
        if not reranked:
            documents = result.documents[: asked.top_k]
            return None if asked.certified_only else RagHit(found, documents, similarity)
        ranked = await self._neighbours.thread.compute(
            len(result.documents) * len(vector),
            lambda: rag_vectors.ranked(vector, result, asked.top_k),
        )
        if asked.certified_only and not ranked.certified:
            return None
        documents = tuple(
            replace(result.documents[place], score=cosine)
            for place, cosine in zip(ranked.order, ranked.cosines, strict=True)
        )
        return RagHit(found, documents, similarity, reranked=True, certified=ranked.certified)

    async def _fly(
        self, asked: RagQuery, wait_s: float, lease_ttl_s: float
    ) -> Hit[RagEntry] | Miss:
        until_s = self._l1.now() + wait_s
        while True:
            left_s = max(0.0, until_s - self._l1.now())
            found = await self.flights.join(asked.key, wait_s=left_s, lease_ttl_s=lease_ttl_s)
            if isinstance(found, Miss) or asked.fits(found.entry):
                return found
            # Stored for fewer documents meanwhile: it makes way for one with more.
            try:
                await self._read(asked.key, None, asked.fits)
            except StoreError:
                return Miss(degraded=True)

    def _least(self, asked: RagQuery, *, reranked: bool) -> float:
        return max(self._similar.least(asked.collection, reranked=reranked), asked.min_similarity)

    def _similar_counts(self, asked: RagQuery) -> LayerCounts:
        return self._counts.of(asked.key.namespace, SIMILAR_LAYER)

    def _count_similar(self, asked: RagQuery, hit: RagHit) -> None:
        count_hit(self._similar_counts(asked), hit.found.entry.answer)
        self.reranked_hits += hit.reranked
        self.certified_hits += hit.certified
