"""A sidecar that hangs, under the drop-ins for retrieval and for LangChain, as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.vectorstores import InMemoryVectorStore

from mge_cache.langchain import CachedLangChainRetriever, MgeCache
from mge_cache.retrieval import CachedRetriever
from tests.hanging import check_hang
from tests.retrieval.index import Search, vector

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_retriever(launch: Launch, way: str) -> None:
    sidecar = await launch()
    async with CachedRetriever(
        Search(),
        embedding_model="m",
        collection="c",
        k=3,
        allow_similar=False,
        target=sidecar.target,
    ) as retriever:

        async def ask(name: str) -> bool:
            if way == "async":
                return (await retriever.aretrieve(name, vector(1))).hit is not None
            return (await asyncio.to_thread(retriever.retrieve, name, vector(1))).hit is not None

        await check_hang(sidecar, ask)
        assert retriever.stats.failures > 0


async def test_langchains_cache(launch: Launch, way: str) -> None:
    sidecar = await launch()
    async with MgeCache(target=sidecar.target) as cache:
        model = FakeListChatModel(responses=[f"{number}" for number in range(1000)], cache=cache)

        async def ask(name: str) -> bool:
            before = model.i
            if way == "async":
                await model.ainvoke(name)
            else:
                await asyncio.to_thread(model.invoke, name)
            return model.i == before

        await check_hang(sidecar, ask)
        assert cache.failures > 0


async def test_langchains_retriever(launch: Launch, way: str) -> None:
    sidecar = await launch()
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_texts(["a", "b", "c"])
    retriever = CachedLangChainRetriever(
        source=store,
        embedding_model="m",
        collection="c",
        k=2,
        allow_similar=False,
        target=sidecar.target,
    )

    async def ask(name: str) -> bool:
        before: int = retriever.stats.retrieved
        if way == "async":
            await retriever.ainvoke(name)
        else:
            await asyncio.to_thread(retriever.invoke, name)
        return before == retriever.stats.retrieved

    await check_hang(sidecar, ask)
    assert retriever.stats.failures > 0
    await retriever.aclose()
