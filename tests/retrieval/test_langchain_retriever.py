"""``CachedLangChainRetriever`` around retrievers and vector stores of several kinds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from mge_cache.langchain import CachedLangChainRetriever
from tests.retrieval.index import PATIENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from tests.rpc.conftest import Serve

EMBEDDINGS = DeterministicFakeEmbedding(size=16)
TEXTS = [
    Document(id=f"d{n}", page_content=f"text {n}", metadata={"n": n, "even": n % 2 == 0})
    for n in range(12)
]


@pytest.fixture
async def target(serve: Serve) -> str:
    await serve()
    return serve.target


@pytest.fixture
def store() -> InMemoryVectorStore:
    store = InMemoryVectorStore(EMBEDDINGS)
    store.add_documents(TEXTS)
    return store


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Plain(BaseRetriever):
    """Takes no ``k``, and has no embeddings."""

    calls: list[str]
    error: Any = None

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        assert run_manager is not None
        self.calls.append(query)
        if self.error is not None:
            raise self.error
        return TEXTS[:6]


class ByText(VectorStore):
    """Cannot search by vector."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, dict[str, Any]]] = []

    @property
    def embeddings(self) -> DeterministicFakeEmbedding:
        return EMBEDDINGS

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        self.calls.append((query, k, kwargs))
        return TEXTS[:k]

    @classmethod
    def from_texts(cls, *_: Any, **_options: Any) -> ByText:
        return cls()


def cached(target: str, source: Any, **options: Any) -> CachedLangChainRetriever:
    usual: dict[str, Any] = {"embedding_model": "fake", "collection": "texts"}
    return CachedLangChainRetriever(
        source=source, target=target, timeouts=PATIENT, **{**usual, **options}
    )


async def ask(retriever: BaseRetriever, way: str, query: str, **options: Any) -> list[Document]:
    if way == "async":
        return await retriever.ainvoke(query, **options)
    return await asyncio.to_thread(lambda: retriever.invoke(query, **options))


async def test_a_vector_store(target: str, store: InMemoryVectorStore, way: str) -> None:
    retriever = cached(target, store, allow_similar=False)
    wanted = store.similarity_search("text 3", 4)
    for _ in range(2):
        assert await ask(retriever, way, "text 3") == wanted
    assert await ask(retriever, way, "text 3", k=2) == wanted[:2]
    assert (retriever.stats.retrieved, retriever.stats.hits) == (1, 2)
    await retriever.aclose()


async def test_a_store_that_searches_by_text(target: str, way: str) -> None:
    store = ByText()
    retriever = cached(target, store, search_kwargs={"lang": "en"}, k=3)
    for _ in range(2):
        assert await ask(retriever, way, "q") == TEXTS[:3]
    assert store.calls == [("q", 3, {"lang": "en"})]
    await retriever.aclose()
    other = cached(target, store, search_kwargs={"lang": "de"}, k=3)
    await ask(other, way, "q")
    assert len(store.calls) == 2
    await other.aclose()


async def test_a_store_s_retriever(target: str, store: InMemoryVectorStore, way: str) -> None:
    for number, kwargs in enumerate(({"k": 2}, {"k": 7}, {"fetch_k": 9})):
        source = store.as_retriever(search_type="mmr", search_kwargs=kwargs)
        retriever = cached(target, source, k=3)
        assert len(await ask(retriever, way, "text 1")) == 3
        assert retriever.stats.hits == (number == 1)  # k is not part of the search
        await retriever.aclose()


async def test_a_plain_retriever(target: str, way: str) -> None:
    source = Plain(calls=[])
    retriever = cached(target, source, embeddings=EMBEDDINGS)
    for _ in range(2):
        assert await ask(retriever, way, "q") == TEXTS[:4]
    assert source.calls == ["q"]
    source.error = error = LookupError("no index")
    with pytest.raises(LookupError) as caught:
        await ask(retriever, way, "q2")
    assert caught.value is error
    await retriever.aclose()


async def test_switched_off(target: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGE_V2_RAG_CACHE_ENABLED", "false")
    source = Plain(calls=[])
    retriever = cached(target, source, embeddings=EMBEDDINGS)
    for _ in range(2):
        assert await ask(retriever, way, "q") == TEXTS[:6]
    assert len(source.calls) == 2
    await retriever.aclose()


class Runs(BaseCallbackHandler):
    """The retrievers that ran, and in which run."""

    def __init__(self) -> None:
        self.parents: list[UUID | None] = []
        self.runs: list[UUID] = []

    def on_retriever_start(
        self,
        serialized: Mapping[str, Any],  # noqa: ARG002 - LangChain's name
        query: str,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **_: Any,
    ) -> None:
        self.runs.append(run_id)
        self.parents.append(parent_run_id)


async def test_callbacks_see_the_source_inside(target: str, way: str) -> None:
    retriever = cached(target, Plain(calls=[]), embeddings=EMBEDDINGS)
    runs = Runs()
    for _ in range(2):
        await ask(retriever, way, "q", config={"callbacks": [runs]})
    assert runs.parents == [None, runs.runs[0], None]
    await retriever.aclose()


def test_mistakes_show_at_once(store: InMemoryVectorStore) -> None:
    with pytest.raises(ValueError, match="embeddings are needed"):
        cached("unix:/nowhere", Plain(calls=[]))
    with pytest.raises(TypeError, match="not str"):
        cached("unix:/nowhere", "store")
    with pytest.raises(ValueError, match="are for vector stores"):
        cached("unix:/nowhere", store.as_retriever(), search_kwargs={"a": 1})
