"""The RAG calls of the client for threads. The sidecar lives in the test's event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    Client,
    InvalidRequestError,
    RagDocument,
    RagHit,
    RagMiss,
    RagQuery,
    RagResult,
    SetStatus,
    Source,
    Timeouts,
)
from tests.rpc.sidecar_double import TICK, SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

QUERY = RagQuery(embedding_model="m", embedding=[0.0, 1.0], query="Why?")
DOCUMENTS = [RagDocument(f"d{number}", b"text") for number in range(3)]
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: SidecarDouble) -> AsyncIterator[Client]:
    with Client(await double.start("127.0.0.1:0"), timeouts=PATIENT) as client:
        yield client


async def test_threads_share_a_retrieval(double: SidecarDouble, client: Client) -> None:
    calls = 0

    def retrieve() -> list[RagDocument]:
        nonlocal calls
        calls += 1
        return DOCUMENTS

    def run() -> list[RagResult]:
        with ThreadPoolExecutor(max_workers=16) as pool:
            work = lambda _: client.retrieve_or_compute(QUERY, retrieve, top_k=2)  # noqa: E731
            return list(pool.map(work, range(100)))

    results = await asyncio.to_thread(run)
    assert calls == 1
    assert {result.documents for result in results} == {tuple(DOCUMENTS[:2])}
    assert [result.hit for result in results].count(None) == 1
    assert len(double.results) == 1
    await eventually(lambda: double.holds and not double.open_holds)


async def test_query_store_invalidate(double: SidecarDouble, client: Client) -> None:
    def work() -> None:
        miss = client.query_rag(QUERY)
        assert isinstance(miss, RagMiss)
        stored = client.store_rag(QUERY, DOCUMENTS, lease=miss.lease, cost_usd=0.5)
        assert (stored.status, stored.cost_usd) == (SetStatus.STORED, 0.5)
        hit = client.query_rag(QUERY, top_k=1)
        assert isinstance(hit, RagHit)
        assert hit.documents == (DOCUMENTS[0],)
        assert client.invalidate(document="d1") == TICK
        assert client.stats().rag_index.rows == 2
        with pytest.raises(InvalidRequestError, match="top_k"):
            client.query_rag(QUERY, top_k=0)

    await asyncio.to_thread(work)
    assert double.invalidations[0].document == "d1"


def test_absent_sidecar(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path}/nobody", timeouts=Timeouts(retry_s=3600.0)) as client:
        for _ in range(10):
            result = client.retrieve_or_compute(QUERY, lambda: DOCUMENTS)
            assert result.documents == tuple(DOCUMENTS)
            assert result.source is Source.COMPUTED
        assert client.failures == 20
