"""What a CachedRetriever costs on a miss, beside the bare retriever, and how long a hit takes.

A call begins when what the one before retrieved is stored: an application has other things to do
between two retrievals, and its callers do not wait for that.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from rich import box
from rich.table import Table

from mge_cache import Timeouts
from mge_cache.langchain import CachedLangChainRetriever
from mge_cache.retrieval import CachedRetriever
from tests.bench import servers
from tests.bench.dropin import Case
from tests.bench.measure import LoadError, percentile, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from rich.console import Console

SOURCE_S = 0.005
"""How long the retriever takes: a vector store that is near. It is imitated by waiting."""
DIMENSION = 384
K = 10
# Pauses of a busy machine are not what is measured.
PATIENT = Timeouts(get_s=5.0, set_s=5.0)


@dataclass(frozen=True, slots=True)
class RetrieverFigures:
    """Medians of the rounds' medians, in seconds, by case; "bare" is the reference."""

    p50_s: dict[str, float]
    calls: int
    """Of each case in each round."""

    def rows(self) -> list[tuple[str, float, float]]:
        """Return case, seconds, and the ratio to the bare retriever called in the same way."""
        return [
            (case, each, each / self.p50_s[f"bare, {case.rpartition(', ')[2]}"])
            for case, each in self.p50_s.items()
        ]


class _Source:
    """Returns documents of usual size after ``SOURCE_S``; with embeddings if they are wanted."""

    def __init__(self, *, embeddings: bool) -> None:
        rows = np.random.default_rng(3).standard_normal((50, DIMENSION)).astype("f4")
        self._documents = [
            {
                "id": f"document-{number}",
                "text": "word " * 100,
                "score": 0.5,
                "metadata": {"source": "handbook", "page": number},
                **({"embedding": row} if embeddings else {}),
            }
            for number, row in enumerate(rows)
        ]

    def retrieve(self, _query: str, _embedding: Any, k: int) -> list[dict[str, Any]]:
        time.sleep(SOURCE_S)
        return [dict(document) for document in self._documents[:k]]

    async def aretrieve(self, _query: str, _embedding: Any, k: int) -> list[dict[str, Any]]:
        await asyncio.sleep(SOURCE_S)
        return [dict(document) for document in self._documents[:k]]


class _Embeddings(Embeddings):
    """Takes no time: a model of one's own would take the same with and without the cache."""

    def embed_query(self, text: str) -> list[float]:
        del text
        return [0.5] * DIMENSION

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class _ChainSource(BaseRetriever):
    """The same source as a retriever of LangChain's."""

    source: Any

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        del run_manager
        return _as_documents(self.source.retrieve(query, None, K))

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        del run_manager
        return _as_documents(await self.source.aretrieve(query, None, K))


def _as_documents(found: list[dict[str, Any]]) -> list[Document]:
    return [
        Document(each["text"], id=each["id"], metadata=dict(each["metadata"])) for each in found
    ]


async def measure_retrievers(folder: Path, *, rounds: int) -> RetrieverFigures:
    """Call bare and cached retrievers in turns; each round has so many calls of each case."""
    calls = 20 if rounds <= 3 else 40
    numbers = itertools.count()
    found: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        redis_socket = await stack.enter_async_context(servers.valkey(folder / "retrievers"))
        options = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
        sidecar = await stack.enter_async_context(servers.sidecar(folder, "retrievers", *options))
        cases = await _cases(stack, sidecar.target, f"unix:{folder / 'nobody'}")
        for _ in range(rounds):
            for name, case in cases.items():
                texts = [f"query {next(numbers)}" if case.new else "always" for _ in range(calls)]
                found.setdefault(name, []).append(percentile(await _times(case, texts), 50))
    return RetrieverFigures({case: spread(p50).median for case, p50 in found.items()}, calls)


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Case:
    """``new``: each call asks something new. ``settle`` waits until its result is stored."""

    call: Callable[[str], Awaitable[Sequence[object]]]
    new: bool = True
    settle: Callable[[], Awaitable[None]] = _nothing


async def _cases(stack: AsyncExitStack, target: str, nowhere: str) -> dict[str, _Case]:
    """Return the cases by name."""
    embedding = np.random.default_rng(4).standard_normal(DIMENSION).astype("f4")
    bare, full = _Source(embeddings=False), _Source(embeddings=True)
    plain, over, away = [
        await stack.enter_async_context(
            CachedRetriever(
                source,
                embedding_model="bench",
                collection=name,
                k=K,
                allow_similar=False,
                target=where,
                timeouts=PATIENT,
            )
        )
        for name, source, where in (
            ("plain", bare, target),
            ("over", full, target),
            ("away", bare, nowhere),
        )
    ]

    def sync(
        function: Callable[[str, Any, int], Sequence[object]],
    ) -> Callable[[str], Awaitable[Sequence[object]]]:
        async def call(query: str) -> Sequence[object]:
            # In the loop's own thread: nothing else runs here, and a thread would be measured too.
            return function(query, embedding, K)

        return call

    def aio(
        function: Callable[[str, Any, int], Awaitable[Sequence[object]]],
    ) -> Callable[[str], Awaitable[Sequence[object]]]:
        return lambda query: function(query, embedding, K)

    plain_chain = _ChainSource(source=bare)
    cached_chain = CachedLangChainRetriever(
        source=plain_chain,
        embedding_model="bench",
        collection="langchain",
        k=K,
        embeddings=_Embeddings(),
        allow_similar=False,
        target=target,
        timeouts=PATIENT,
    )
    stack.push_async_callback(cached_chain.aclose)

    return {
        "bare, async": _Case(aio(bare.aretrieve)),
        "bare, sync": _Case(sync(bare.retrieve)),
        "miss, async": _Case(aio(plain.aretrieve), settle=plain.aflush),
        "miss, sync": _Case(sync(plain.retrieve), settle=plain.aflush),
        "miss of 50 with embeddings, async": _Case(aio(over.aretrieve), settle=over.aflush),
        "hit, async": _Case(aio(plain.aretrieve), new=False, settle=plain.aflush),
        "hit, sync": _Case(sync(plain.retrieve), new=False, settle=plain.aflush),
        "sidecar away, async": _Case(aio(away.aretrieve)),
        "sidecar away, sync": _Case(sync(away.retrieve)),
        "bare, LangChain's ainvoke": _Case(plain_chain.ainvoke),
        "miss, LangChain's ainvoke": _Case(
            cached_chain.ainvoke, settle=cached_chain._cached.aflush
        ),
        "hit, LangChain's ainvoke": _Case(
            cached_chain.ainvoke, new=False, settle=cached_chain._cached.aflush
        ),
    }


async def retriever_cases(stack: AsyncExitStack, target: str) -> list[Case]:
    """Return each drop-in before a retriever, with its usual time limits."""
    embedding = np.full(DIMENSION, 0.5, "f4")
    source = _Source(embeddings=False)
    chain = _ChainSource(source=source)
    retriever = await stack.enter_async_context(
        CachedRetriever(
            source, embedding_model="b", collection="c", k=K, allow_similar=False, target=target
        )
    )
    cached_chain = CachedLangChainRetriever(
        source=chain,
        embedding_model="b",
        collection="l",
        k=K,
        embeddings=_Embeddings(),
        allow_similar=False,
        target=target,
    )
    stack.push_async_callback(cached_chain.aclose)

    async def bare_sync(query: str) -> None:
        source.retrieve(query, embedding, K)

    async def sync(query: str) -> None:
        retriever.retrieve(query, embedding, K)

    return [
        Case(
            "CachedRetriever.aretrieve",
            lambda query: source.aretrieve(query, embedding, K),
            lambda query: retriever.aretrieve(query, embedding, K),
            lambda: retriever.stats.failures,
        ),
        Case("CachedRetriever.retrieve", bare_sync, sync, lambda: retriever.stats.failures),
        Case(
            "CachedLangChainRetriever.ainvoke",
            chain.ainvoke,
            cached_chain.ainvoke,
            lambda: cached_chain.stats.failures,
        ),
    ]


async def _times(case: _Case, texts: list[str]) -> list[float]:
    if not case.new:  # a hit has to be stored first
        await case.call(texts[0])
        await case.settle()
    times = []
    for text in texts:
        start = time.perf_counter()
        found = await case.call(text)
        times.append(time.perf_counter() - start)
        if len(found) != K:
            raise LoadError(f"{len(found)} documents instead of {K}")
        await case.settle()
    return times


def show_retrievers(figures: RetrieverFigures, console: Console) -> None:
    """Print the table."""
    table = Table(
        title="CachedRetriever and CachedLangChainRetriever before a retriever of "
        f"{SOURCE_S * 1e3:g} ms, {K} documents (p50 of {figures.calls} calls, rounds' median)",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("what")
    table.add_column("µs", justify="right")
    table.add_column("ratio to bare", justify="right")
    for case, each, ratio in figures.rows():
        table.add_row(case, f"{each * 1e6:,.0f}", f"{ratio:.2f}")
    console.print(table)
