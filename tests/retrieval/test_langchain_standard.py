"""LangChain's own tests of caches and retrievers, on a sidecar."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests.cache import AsyncCacheTestSuite, SyncCacheTestSuite
from langchain_tests.integration_tests.retrievers import RetrieversIntegrationTests

from mge_cache.langchain import CachedLangChainRetriever, MgeCache
from tests.retrieval.index import PATIENT
from tests.retrieval.sidecar_thread import sidecar_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_core.retrievers import BaseRetriever

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with sidecar_thread() as target:
        yield target


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, target: str) -> Iterator[MgeCache]:
        with MgeCache(target=target, namespace=f"s{next(NUMBERS)}", timeouts=PATIENT) as cache:
            yield cache
            assert cache.failures == 0


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, target: str) -> AsyncIterator[MgeCache]:
        namespace = f"a{next(NUMBERS)}"
        async with MgeCache(target=target, namespace=namespace, timeouts=PATIENT) as cache:
            yield cache
            assert cache.failures == 0


class RetrieverTests(RetrieversIntegrationTests):
    target = ""
    source: Any = None

    @pytest.fixture(autouse=True)
    def searched(self, target: str) -> Iterator[None]:
        self.target = target
        self.namespace = f"r{next(NUMBERS)}"
        self.made: list[CachedLangChainRetriever] = []
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
        store.add_documents([Document(id=f"d{n}", page_content=f"text {n}") for n in range(9)])
        self.source = self.source_of(store)
        yield
        for retriever in self.made:
            retriever.close()
            assert retriever.stats.failures == 0
            assert not retriever.stats.uncached

    def source_of(self, store: InMemoryVectorStore) -> Any:
        return store

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        def make(**options: Any) -> CachedLangChainRetriever:
            self.made.append(CachedLangChainRetriever(**options))
            return self.made[-1]

        return make  # type: ignore[return-value]

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "embedding_model": "fake",
            "collection": "texts",
            "target": self.target,
            "namespace": self.namespace,
            "timeouts": PATIENT,
        }

    @property
    def retriever_query_example(self) -> str:
        return "text 3"


class TestVectorStore(RetrieverTests):
    pass


class TestRetriever(RetrieverTests):
    def source_of(self, store: InMemoryVectorStore) -> Any:
        return store.as_retriever()
