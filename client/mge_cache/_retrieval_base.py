"""What a ``CachedRetriever`` is made of, and what its calls have in common."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mge_cache._aio_deferred import DeferringAsyncClient
from mge_cache._cached_documents import DocumentShape, NotStoredError
from mge_cache._channel import resolve_target
from mge_cache._clients_by_loop import ClientsByLoop
from mge_cache._deferred import DeferringClient
from mge_cache._either_way import EitherWay
from mge_cache._health import Health
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._rag_types import TOP_K, Certainty
from mge_cache._retrieval_call import (
    CallOptions,
    Documents,
    RetrieverCounts,
    RetrieverStats,
    Retrieving,
    readable,
    retrieving,
)
from mge_cache._switch import RAG_CACHE, switched_on
from mge_cache._types import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mge_cache._rag_types import RagResult
    from mge_cache._sources import Source

D = TypeVar("D")

OVER_FETCH_MAX = 100


class RetrieverBase(Generic[D]):
    """The parts of a ``CachedRetriever``, which describes the arguments."""

    def __init__(
        self,
        source: Source[D],
        *,
        embedding_model: str,
        collection: str,
        embed: object = None,
        k: int = TOP_K,
        enable_v2_caching: bool = True,
        over_fetch: int = 5,
        rerank: bool = True,
        exact_search: bool = False,
        index_version: str = "",
        filter: Mapping[str, object] | None = None,  # noqa: A002 - the contract's name
        namespace: str = DEFAULT_NAMESPACE,
        masterplan: str | None = None,
        tags: Sequence[str] = (),
        ttl_s: float | None = None,
        cost_usd: float | None = None,
        min_similarity: float | None = None,
        allow_similar: bool = True,
        min_certainty: Certainty = Certainty.SIMILAR,
        wait_s: float = 10.0,
        id_of: Callable[[D], object] | None = None,
        embedding_of: Callable[[D], Any] | None = None,
        with_score: Callable[[D, float], D] | None = None,
        document_types: Sequence[type] = (),
        target: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._source = EitherWay(source, names=("retrieve", "search"), what="source")
        self._source.check("", b"", 1, what="source must take (query, embedding, k)")
        if not 1 <= over_fetch <= OVER_FETCH_MAX:
            raise ValueError(f"over_fetch must be from 1 to {OVER_FETCH_MAX}")
        self._embed = None
        if embed is not None:
            self._embed = EitherWay(embed, names=("embed_query", "embed"), what="embed")
        self._options = CallOptions(
            embedding_model=embedding_model,
            collection=collection,
            k=k,
            index_version=index_version,
            filter=dict(filter or {}),
            namespace=namespace,
            masterplan=masterplan,
            tags=tags,
            ttl_s=ttl_s,
            cost_usd=cost_usd,
            min_similarity=min_similarity,
            allow_similar=allow_similar,
            min_certainty=min_certainty,
            exact_search=exact_search,
            wait_s=wait_s,
        )
        self._options.check()
        self._shape = DocumentShape(
            id_of=id_of,
            embedding_of=embedding_of,
            with_score=with_score,
            types=tuple(document_types),
            rerank=rerank,
        )
        self._enabled = enable_v2_caching
        self._over_fetch = over_fetch
        self._carries = rerank and embedding_of is not None
        self._storable = True
        self._counts = RetrieverCounts()
        timeouts = timeouts or Timeouts()
        self._health = Health(resolve_target(target), retry_s=timeouts.retry_s)
        read = functools.partial(readable, self._shape, self._counts)
        health = self._health
        self._client = DeferringClient(target, timeouts=timeouts, health=health, read=read)
        self._clients = ClientsByLoop(
            lambda: DeferringAsyncClient(target, timeouts=timeouts, health=health, read=read)
        )

    @property
    def enabled(self) -> bool:
        """Whether the cache is asked: it is switched on here and in the environment."""
        return self._enabled and switched_on(RAG_CACHE)

    @property
    def stats(self) -> RetrieverStats:
        """What was found, retrieved, and could not be cached so far."""
        return self._counts.stats(failures=self._health.failures)

    def _options_of(
        self,
        k: int | None,
        *,
        filter: Mapping[str, object] | None,  # noqa: A002
        **given: Any,
    ) -> CallOptions:
        if filter is not None and not self._source.takes("filter", "", b"", 1):
            raise TypeError("the source takes no filter: it is called with (query, embedding, k)")
        # Callers must not wait for each other's results where none can be handed on.
        given.update(k=k, filter=filter, wait_s=None if self._storable else 0.0)
        chosen = {name: value for name, value in given.items() if value is not None}
        return replace(self._options, **chosen)

    def _embedder(self) -> EitherWay:
        if self._embed is None:
            raise TypeError("give the query's embedding, or `embed` to the constructor")
        return self._embed

    def _asked(self, options: CallOptions, query: str, embedding: Any) -> Retrieving | None:
        """Prepare a look-up; None if there is none to make."""
        if not self.enabled:
            return None
        asked = retrieving(
            options,
            self._shape,
            self._counts,
            query=query,
            embedding=embedding,
            over_fetch=self._over_fetch if self._carries else 1,
        )
        if asked is None:
            self._counts.outcome(None)
        return asked

    def _not_stored(self, asked: Retrieving, error: NotStoredError) -> Documents[D]:
        self._storable = False
        self._counts.uncached(error.reason)
        self._counts.outcome(None)
        return asked.result()

    def _returned(self, asked: Retrieving, result: RagResult) -> Documents[D]:
        self._counts.outcome(result.hit)
        if result.hit is None:
            self._storable = True
        if asked.carries is not None:
            self._carries = asked.carries
        return asked.result(result)
