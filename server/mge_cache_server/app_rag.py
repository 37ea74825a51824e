"""The RAG cache's part of the wiring: from settings to the cache and its search."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mge_cache_server.model import RAG_LAYER
from mge_cache_server.rag_cache import RagCache, RagPolicy
from mge_cache_server.rag_index import Bounds
from mge_cache_server.rag_partitions import Partitions
from mge_cache_server.rag_vector_sets import KIND as VECTOR_SETS
from mge_cache_server.rag_vector_sets import VectorSets
from mge_cache_server.stores import vectors_of

if TYPE_CHECKING:
    from mge_cache_server.config import Settings
    from mge_cache_server.entry_cache import CachePolicy, Parts
    from mge_cache_server.store import Store


async def check_store(settings: Settings, store: Store) -> None:
    """Raise MgeError where a store that answers has no vector sets, but is asked for them."""
    if settings.rag_index == VECTOR_SETS:
        await vectors_of(store).check()


def make_neighbours(settings: Settings, parts: Parts) -> Partitions | VectorSets:
    """Make the search for similar queries that the settings ask for."""

    def failed(namespace: str, operation: str) -> None:
        parts.counts.of(namespace, RAG_LAYER).error(operation)

    if settings.rag_index == VECTOR_SETS:
        return VectorSets(parts.store, vectors_of(parts.store), parts.epochs, failed=failed)
    return Partitions(
        parts.store, parts.epochs, bounds=_bounds(settings), failed=failed, now=parts.l1.now
    )


def make_rag_cache(
    settings: Settings, parts: Parts, policy: CachePolicy, neighbours: Partitions | VectorSets
) -> RagCache:
    """Make the cache; ``policy`` is the prompts', from which its own differs a little."""
    own = replace(
        policy, enabled=settings.rag_cache_enabled, ttl_s=settings.rag_ttl_s, namespace_ttl_s={}
    )
    return RagCache(parts, policy=own, similar=_similar(settings), neighbours=neighbours)


def _similar(settings: Settings) -> RagPolicy:
    return RagPolicy(
        threshold=settings.rag_threshold,
        rerank_threshold=settings.rag_rerank_threshold,
        collection_thresholds=dict(settings.rag_collection_thresholds),
        store_texts=settings.rag_store_texts,
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        rows_max=settings.rag_index_max_rows,
        bytes_max=settings.rag_index_max_bytes,
        compact=settings.rag_compact,
    )
