"""The RAG cache around LangChain's retrievers and vector stores."""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever
from pydantic import Field, PrivateAttr

from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._rag_types import Certainty
from mge_cache._types import Timeouts
from mge_cache.retrieval import CachedRetriever, RetrieverStats

if TYPE_CHECKING:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.runnables import RunnableConfig

_CONFIG: contextvars.ContextVar[RunnableConfig | None] = contextvars.ContextVar(
    "mge_cache_langchain_config", default=None
)
"""The callbacks of the call that asks the source: tracing shows the one inside the other."""


class CachedLangChainRetriever(BaseRetriever):
    """A retriever that asks the cache first, then ``source``: a retriever or a vector store.

    ``embeddings`` embeds queries; a vector store's own by default. Such a store is searched by
    vector where it can be, so that a query is embedded once. ``k`` can be given to ``invoke`` too;
    a source that takes no ``k`` is asked as it is, and the first ``k`` documents are returned.

    ``search_kwargs`` go to a vector store's search; they, and those of a vector store's retriever,
    are part of what is looked up. ``cache_tags`` are the cache's (``tags`` are LangChain's, for
    callbacks). The other fields: see ``CachedRetriever``. Close it to store what waits to be.
    """

    source: Any
    embedding_model: str
    collection: str
    k: int = 4
    embeddings: Embeddings | None = None
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    enable_v2_caching: bool = True
    over_fetch: int = 5
    rerank: bool = True
    exact_search: bool = False
    index_version: str = ""
    filter: dict[str, Any] = Field(default_factory=dict)
    namespace: str = DEFAULT_NAMESPACE
    masterplan: str | None = None
    cache_tags: Sequence[str] = ()
    ttl_s: float | None = None
    cost_usd: float | None = None
    min_similarity: float | None = None
    allow_similar: bool = True
    min_certainty: Certainty = Certainty.SIMILAR
    wait_s: float = 10.0
    id_of: Callable[[Document], object] | None = None
    embedding_of: Callable[[Document], Any] | None = None
    target: str | None = None
    timeouts: Timeouts | None = None

    _cached: CachedRetriever[Document] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Make what asks the cache."""
        super().model_post_init(context)
        source = _source(self.source, self.search_kwargs)
        embeddings = self.embeddings or source.embeddings
        if embeddings is None:
            raise ValueError("embeddings are needed: the source has none of its own")
        self._cached = CachedRetriever(
            source,
            embed=embeddings,
            embedding_model=self.embedding_model,
            collection=self.collection,
            k=self.k,
            enable_v2_caching=self.enable_v2_caching,
            over_fetch=self.over_fetch,
            rerank=self.rerank,
            exact_search=self.exact_search,
            index_version=self.index_version,
            filter={**self.filter, **source.conditions},
            namespace=self.namespace,
            masterplan=self.masterplan,
            tags=self.cache_tags,
            ttl_s=self.ttl_s,
            cost_usd=self.cost_usd,
            min_similarity=self.min_similarity,
            allow_similar=self.allow_similar,
            min_certainty=self.min_certainty,
            wait_s=self.wait_s,
            id_of=self.id_of,
            embedding_of=self.embedding_of,
            target=self.target,
            timeouts=self.timeouts,
        )

    @property
    def stats(self) -> RetrieverStats:
        """What was found, retrieved, and could not be cached so far."""
        return self._cached.stats

    def close(self) -> None:
        """Store what threads retrieved, and close their connection. For event loops: ``aclose``."""
        self._cached.close()

    async def aclose(self) -> None:
        """Store what this event loop and what threads retrieved, and close both connections."""
        await self._cached.aclose()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        token = _CONFIG.set({"callbacks": run_manager.get_child()})
        try:
            return self._cached.retrieve(query, k=k)
        finally:
            _CONFIG.reset(token)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        token = _CONFIG.set({"callbacks": run_manager.get_child()})
        try:
            return await self._cached.aretrieve(query, k=k)
        finally:
            _CONFIG.reset(token)


class _RetrieverSource:
    """Asks a retriever."""

    def __init__(self, retriever: BaseRetriever) -> None:
        self.embeddings: Embeddings | None = None
        self.conditions: Mapping[str, object] = {}
        if isinstance(retriever, VectorStoreRetriever):
            self.embeddings = retriever.vectorstore.embeddings
            kwargs = {name: each for name, each in retriever.search_kwargs.items() if name != "k"}
            self.conditions = {"search_type": retriever.search_type, "search_kwargs": kwargs}
        self._retriever = retriever
        parameters = inspect.signature(retriever._get_relevant_documents).parameters  # noqa: SLF001
        kinds = {parameter.kind for parameter in parameters.values()}
        self._takes_k = "k" in parameters or inspect.Parameter.VAR_KEYWORD in kinds

    def retrieve(self, query: str, _embedding: Any, k: int) -> list[Document]:
        wanted = {"k": k} if self._takes_k else {}
        return self._retriever.invoke(query, _CONFIG.get(), **wanted)

    async def aretrieve(self, query: str, _embedding: Any, k: int) -> list[Document]:
        wanted = {"k": k} if self._takes_k else {}
        return await self._retriever.ainvoke(query, _CONFIG.get(), **wanted)


class _StoreSource:
    """Asks a vector store: by vector, if it can, or by text."""

    def __init__(self, store: VectorStore, options: Mapping[str, Any]) -> None:
        self.embeddings = store.embeddings
        self.conditions: Mapping[str, object] = {"search_kwargs": options} if options else {}
        self._store = store
        self._options = options
        own, inherited = type(store), VectorStore
        self._by_vector = (
            own.similarity_search_by_vector is not inherited.similarity_search_by_vector
        )

    def retrieve(self, query: str, embedding: Any, k: int) -> list[Document]:
        if self._by_vector:
            return self._store.similarity_search_by_vector(embedding, k, **self._options)
        return self._store.similarity_search(query, k, **self._options)

    async def aretrieve(self, query: str, embedding: Any, k: int) -> list[Document]:
        if self._by_vector:
            return await self._store.asimilarity_search_by_vector(embedding, k, **self._options)
        return await self._store.asimilarity_search(query, k, **self._options)


def _source(source: object, search_kwargs: Mapping[str, Any]) -> _RetrieverSource | _StoreSource:
    if isinstance(source, VectorStore):
        return _StoreSource(source, search_kwargs)
    if not isinstance(source, BaseRetriever):
        raise TypeError(
            f"source must be a retriever or a vector store, not {type(source).__name__}"
        )
    if search_kwargs:
        raise ValueError("search_kwargs are for vector stores: a retriever has its own")
    return _RetrieverSource(source)
