"""The RAG calls of the asyncio client. What they share with prompts is tested with those."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache import (
    AsyncClient,
    Certainty,
    InvalidRequestError,
    Lease,
    RagDocument,
    RagHit,
    RagHitKind,
    RagMiss,
    RagQuery,
    SetStatus,
    Source,
    Timeouts,
    UnavailableError,
)
from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.sidecar_double import TICK, SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

QUERY = RagQuery(
    embedding_model="minilm",
    embedding=[3.0, 4.0],
    query="Why is the sky blue?",
    collection="physics",
    index_version="7",
    filter={"language": "en"},
    namespace="plans",
)
DOCUMENTS = tuple(
    RagDocument(
        f"doc-{number}",
        b"Rayleigh",
        score=1 - number / 10,
        metadata={"page": str(number)},
        embedding=[1.0, float(number)],
    )
    for number in range(3)
)
SEEN = tuple(replace(document, embedding=None) for document in DOCUMENTS)
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


class Retrieval:
    """Counts its calls; waits for ``go`` where it is told to."""

    def __init__(self, *, waits: bool = False) -> None:
        self.calls = 0
        self.go = asyncio.Event()
        if not waits:
            self.go.set()

    async def __call__(self) -> tuple[RagDocument, ...]:
        self.calls += 1
        await self.go.wait()
        return DOCUMENTS


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: SidecarDouble) -> AsyncIterator[AsyncClient]:
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT) as client:
        yield client


async def test_miss_retrieves_and_stores_then_hit(
    double: SidecarDouble, client: AsyncClient
) -> None:
    retrieve = Retrieval()
    retrieved = await client.retrieve_or_compute(
        QUERY,
        retrieve,
        top_k=2,
        exact_search=True,
        cost_usd=0.25,
        ttl_s=90.5,
        masterplan="plan",
        tags=("a", "b"),
    )
    found = await client.retrieve_or_compute(QUERY, retrieve, top_k=2)

    assert retrieve.calls == 1
    assert retrieved.documents == DOCUMENTS[:2]
    assert (retrieved.source, retrieved.hit, retrieved.cost_saved_usd) == (
        *(Source.COMPUTED, None),
        0,
    )
    assert found.documents == SEEN[:2]
    assert found.hit is not None
    assert (found.source, found.cost_saved_usd) == (Source.L1, 0.25)
    assert (found.hit.kind, found.hit.similarity) == (RagHitKind.EXACT, 1.0)
    assert (found.hit.age_s, found.hit.remaining_ttl_s) == (1.5, 60)
    (stored,) = double.results
    assert [document.id for document in stored.documents] == ["doc-0", "doc-1", "doc-2"]
    assert stored.documents[1].embedding == DOCUMENTS[1].vector
    assert dict(stored.documents[1].metadata) == {"page": "1"}
    assert (stored.top_k, stored.exact_search, stored.cost_usd) == (2, True, 0.25)
    assert (stored.ttl.seconds, stored.ttl.nanos) == (90, 500_000_000)
    assert (stored.masterplan, list(stored.tags)) == ("plan", ["a", "b"])
    assert stored.lease == b"lease-1"
    assert stored.HasField("compute_time")
    assert client.failures == 0
    await eventually(lambda: double.holds and not double.open_holds)


async def test_the_whole_identity_is_sent(double: SidecarDouble, client: AsyncClient) -> None:
    await client.query_rag(QUERY)
    await client.store_rag(QUERY, DOCUMENTS)
    asked, stored = double.queries[0].identity, double.results[0].identity
    assert asked == stored
    assert (asked.namespace, asked.embedding_model, asked.collection, asked.index_version) == (
        *("plans", "minilm"),
        *("physics", "7"),
    )
    assert (asked.query, dict(asked.filter)) == ("Why is the sky blue?", {"language": "en"})
    assert asked.embedding == b"\0\0\x40\x40\0\0\x80\x40"


async def test_what_a_look_up_can_ask_for(double: SidecarDouble, client: AsyncClient) -> None:
    await client.query_rag(
        QUERY,
        top_k=100,
        min_similarity=0.99,
        allow_similar=False,
        min_certainty=Certainty.CERTIFIED,
        lease_ttl_s=2,
        wait_s=0.01,
    )
    await client.query_rag(QUERY)
    full, plain = double.queries
    assert (full.top_k, full.min_similarity, full.allow_similar) == (100, 0.99, False)
    assert full.min_certainty == pb.CERTAINTY_CERTIFIED
    assert (full.lease_ttl.seconds, full.wait.nanos) == (2, 10_000_000)
    assert (plain.top_k, plain.HasField("min_similarity"), plain.allow_similar) == (10, False, True)
    assert plain.min_certainty == pb.CERTAINTY_SIMILAR


async def test_query_and_store_by_hand(double: SidecarDouble, client: AsyncClient) -> None:
    miss = await client.query_rag(QUERY, lease_ttl_s=5)
    assert miss == RagMiss(lease=Lease(token=b"lease-1", ttl_s=5.0))
    assert await client.query_rag(QUERY) == RagMiss(in_progress=True)
    result = await client.store_rag(
        QUERY, iter(DOCUMENTS), lease=miss.lease, compute_s=1.5, preloaded=True
    )
    assert (result.status, result.ttl_s) == (SetStatus.STORED, 3600)
    (stored,) = double.results
    assert (stored.lease, stored.preloaded, stored.top_k) == (b"lease-1", True, 0)
    assert (stored.compute_time.seconds, stored.HasField("cost_usd")) == (1, False)
    found = await client.query_rag(QUERY, top_k=1)
    assert isinstance(found, RagHit)
    assert found.documents == SEEN[:1]


async def test_followers_get_the_leaders_result(double: SidecarDouble, client: AsyncClient) -> None:
    slow, unused = Retrieval(waits=True), Retrieval()
    leader = asyncio.create_task(client.retrieve_or_compute(QUERY, slow))
    await eventually(lambda: slow.calls and double.open_holds)
    followers = [asyncio.create_task(client.retrieve_or_compute(QUERY, unused)) for _ in range(20)]
    await eventually(lambda: double.waiting)
    slow.go.set()
    assert (await leader).source is Source.COMPUTED
    for follower in followers:
        assert (await follower).documents == SEEN
    assert unused.calls == 0
    assert not client._flights._turns._turns


async def test_a_follower_takes_over(double: SidecarDouble, client: AsyncClient) -> None:
    async def fail() -> list[RagDocument]:
        await go.wait()
        raise LookupError

    go = asyncio.Event()
    leader = asyncio.create_task(client.retrieve_or_compute(QUERY, fail))
    await eventually(lambda: double.open_holds)
    follower = asyncio.create_task(client.retrieve_or_compute(QUERY, Retrieval()))
    await eventually(lambda: double.waiting)
    go.set()
    with pytest.raises(LookupError):
        await leader
    assert (await follower).source is Source.COMPUTED
    assert [stored.lease for stored in double.results] == [b"lease-2"]


async def test_waits_in_slices_then_retrieves_without_a_lease(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=replace(PATIENT, slice_s=0.05)) as client:
        await client.query_rag(QUERY)
        double.queries.clear()
        result = await client.retrieve_or_compute(QUERY, Retrieval(), wait_s=0.2)
    assert result.source is Source.COMPUTED
    waits = [query.wait.ToTimedelta().total_seconds() for query in double.queries]
    assert waits[0] == 0
    assert len(waits) >= 3
    assert [query.asks_again for query in double.queries] == [True] * (len(waits) - 1) + [False]
    assert double.results[0].lease == b""


@pytest.mark.parametrize("method", ["QueryRAG", "StoreRAG"])
async def test_failures_fail_open_unless_asked_not_to(double: SidecarDouble, method: str) -> None:
    double.fails[method] = (grpc.StatusCode.UNAVAILABLE, "away")
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT) as client:
        result = await client.retrieve_or_compute(QUERY, Retrieval())
        assert result.documents == DOCUMENTS
        assert client.failures >= 1
    async with AsyncClient(target, timeouts=PATIENT, fail_open=False) as client:
        with pytest.raises(UnavailableError):
            await client.retrieve_or_compute(QUERY, Retrieval())


async def test_absent_sidecar(tmp_path: Path) -> None:
    retrieve = Retrieval()
    calm = Timeouts(retry_s=3600.0)
    async with AsyncClient(f"unix:{tmp_path}/nobody", timeouts=calm) as client:
        for _ in range(20):
            assert (await client.retrieve_or_compute(QUERY, retrieve)).documents == DOCUMENTS
        assert client.failures == 40
        with pytest.raises(UnavailableError):
            await client.query_rag(QUERY)
    assert retrieve.calls == 20


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda client: client.retrieve_or_compute(QUERY, Retrieval(), top_k=0), "top_k"),
        (lambda client: client.retrieve_or_compute(QUERY, Retrieval(), ttl_s=0), "ttl_s"),
        (lambda client: client.retrieve_or_compute(QUERY, Retrieval(), tags="ab"), "tags"),
        (
            lambda client: client.retrieve_or_compute(QUERY, Retrieval(), min_similarity=2),
            "min_similarity",
        ),
        (lambda client: client.query_rag(QUERY, top_k=101), "top_k"),
        (lambda client: client.query_rag(QUERY, min_similarity=float("nan")), "min_similarity"),
        (lambda client: client.query_rag(QUERY, wait_s=-1), "wait_s"),
        (lambda client: client.store_rag(QUERY, DOCUMENTS, top_k=0), "top_k"),
        (
            lambda client: client.store_rag(QUERY, [RagDocument("d", embedding=[1.0])]),
            "documents[0].embedding",
        ),
        (lambda client: client.store_rag(QUERY, [RagDocument("\ud800")]), "documents[0]"),
        (lambda client: client.invalidate(document="d", collection="c"), "target"),
    ],
)
async def test_mistakes_are_told_and_nothing_is_retrieved(
    double: SidecarDouble,
    client: AsyncClient,
    ask: Callable[[AsyncClient], Awaitable[object]],
    field: str,
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await ask(client)
    assert caught.value.field == field
    assert not double.queries
    assert not double.results


async def test_what_is_no_document_hands_over(double: SidecarDouble, client: AsyncClient) -> None:
    async def retrieve() -> list[RagDocument]:
        return ["text"]  # type: ignore[list-item]

    with pytest.raises(TypeError, match="not str"):
        await client.retrieve_or_compute(QUERY, retrieve)
    await eventually(lambda: not double.leases)


async def test_invalidate_and_stats(double: SidecarDouble, client: AsyncClient) -> None:
    assert await client.invalidate(namespace="plans", document="doc-1") == TICK
    assert await client.invalidate(collection="physics") == TICK
    first, second = double.invalidations
    assert (first.namespace, first.WhichOneof("target"), first.document) == (
        *("plans", "document"),
        "doc-1",
    )
    assert (second.WhichOneof("target"), second.collection) == ("collection", "physics")
    index = (await client.stats()).rag_index
    assert (index.partitions, index.rows, index.size_bytes, index.max_bytes) == (1, 2, 3, 4)
    assert index.rows_left_out == 5
