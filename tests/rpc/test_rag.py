"""QueryRAG and StoreRAG on a real server, on each kind of store and of index."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.conftest import settings_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.conftest import Serve

DIMENSION = 16
KINDS = ("memory", "valkey9", "redis8", "cluster", "redis8 vector-sets", "cluster8 vector-sets")


@pytest.fixture(params=KINDS)
def store_settings(request: pytest.FixtureRequest, key_prefix: str) -> dict[str, Any]:
    """Settings of an empty store, and of the index."""
    return settings_of(request.param, request, key_prefix)


def pack(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def direction(degrees: float, *, length: float = 3) -> bytes:
    """A vector in one plane: two of them have the cosine of the difference of their angles."""
    angle = math.radians(degrees)
    plane = (length * math.cos(angle), length * math.sin(angle))
    return pack([*plane, *(DIMENSION - 2) * [0.0]])


def identity(query: str = "query", degrees: float = 0.0, **fields: Any) -> pb.RAGIdentity:
    usual: dict[str, Any] = {
        "namespace": "ns",
        "embedding_model": "model",
        "collection": "faq",
        "embedding": direction(degrees),
        "query": query,
    }
    return pb.RAGIdentity(**{**usual, **fields})


def documents(*angles: float, embedded: bool = False) -> list[pb.RAGDocument]:
    return [
        pb.RAGDocument(
            id=f"doc {angle:g}",
            score=1 / (1 + place),
            content=b"\0content",
            metadata={"place": str(place)},
            embedding=direction(angle, length=1) if embedded else b"",
        )
        for place, angle in enumerate(angles)
    ]


async def ask(stub: CacheServiceAsyncStub, *args: Any, **fields: Any) -> pb.QueryRAGResponse:
    request: dict[str, Any] = {"top_k": 2, "identity": identity(*args), **fields}
    return await stub.QueryRAG(pb.QueryRAGRequest(**request))


async def store(stub: CacheServiceAsyncStub, *args: Any, **fields: Any) -> pb.StoreRAGResponse:
    request: dict[str, Any] = {
        "identity": identity(*args),
        "documents": documents(1, 2, 3),
        "top_k": 3,
        **fields,
    }
    return await stub.StoreRAG(pb.StoreRAGRequest(**request))


def ids(response: pb.QueryRAGResponse) -> list[str]:
    return [document.id for document in response.hit.documents]


async def test_a_miss_hands_out_a_lease_and_a_stored_result_is_an_exact_hit(
    stub: CacheServiceAsyncStub,
) -> None:
    miss = (await ask(stub)).miss
    assert miss.lease
    assert not miss.degraded
    stored = await store(stub, lease=miss.lease, cost_usd=0.25, compute_time=Duration(seconds=2))
    assert stored.status == pb.SET_STATUS_STORED
    assert stored.cost_usd == 0.25
    assert 3600 * 0.95 <= stored.ttl.seconds <= 3600 * 1.05

    hit = (await ask(stub, "  query\n")).hit  # white space does not matter
    assert (hit.kind, hit.similarity) == (pb.RAG_HIT_KIND_EXACT, 1.0)
    assert (hit.reranked, hit.certified, hit.degraded) == (False, False, False)
    assert hit.documents == documents(1, 2)
    assert hit.cost_saved_usd == 0.25
    assert hit.cached_query == ""


async def test_a_similar_query_hits_from_the_threshold_on(stub: CacheServiceAsyncStub) -> None:
    await store(stub)
    at_threshold = math.degrees(math.acos(0.95))
    hit = (await ask(stub, "another", at_threshold - 0.1)).hit
    assert hit.kind == pb.RAG_HIT_KIND_SIMILAR
    assert hit.similarity == pytest.approx(math.cos(math.radians(at_threshold - 0.1)), abs=1e-6)
    assert hit.documents == documents(1, 2)
    assert (await ask(stub, "another", at_threshold + 0.1)).HasField("miss")


async def test_the_most_similar_result_is_the_hit(stub: CacheServiceAsyncStub) -> None:
    for degrees in (-9.0, 4.0, 8.0):
        await store(stub, f"at {degrees}", degrees, documents=documents(degrees, degrees + 1, 50))
    assert ids(await ask(stub, "asked", 5.0)) == ["doc 4", "doc 5"]
    assert ids(await ask(stub, "asked", 7.0)) == ["doc 8", "doc 9"]


async def test_a_caller_may_raise_the_threshold_but_not_lower_it(
    stub: CacheServiceAsyncStub,
) -> None:
    await store(stub)
    assert (await ask(stub, "near", 10.0)).HasField("hit")
    assert (await ask(stub, "near", 10.0, min_similarity=0.99)).HasField("miss")
    assert (await ask(stub, "far", 30.0, min_similarity=0.1)).HasField("miss")


async def test_only_the_same_query_will_do_where_similar_ones_are_switched_off(
    stub: CacheServiceAsyncStub,
) -> None:
    await store(stub)
    assert (await ask(stub, "near", 1.0, allow_similar=False)).HasField("miss")
    assert (await ask(stub, allow_similar=False)).hit.kind == pb.RAG_HIT_KIND_EXACT


async def test_without_a_text_the_embedding_is_the_query(stub: CacheServiceAsyncStub) -> None:
    await store(stub, "", 3.0)
    assert (await ask(stub, "", 3.0)).hit.kind == pb.RAG_HIT_KIND_EXACT
    assert (await ask(stub, "", 3.5)).hit.kind == pb.RAG_HIT_KIND_SIMILAR


WALLS = {
    "namespace": {"namespace": "other"},
    "embedding model": {"embedding_model": "other"},
    "dimension": {"embedding": pack([3.0, *16 * [0.0]])},
    "collection": {"collection": "other"},
    "index version": {"index_version": "2"},
    "filter": {"filter": {"lang": "de"}},
}


@pytest.mark.parametrize("wall", WALLS.values(), ids=WALLS.keys())
async def test_nothing_crosses_a_partition(
    stub: CacheServiceAsyncStub, wall: dict[str, Any]
) -> None:
    await store(stub)
    for query in ("query", "another"):
        assert (await ask(stub, identity=identity(query, **wall))).HasField("miss")


async def test_a_result_serves_as_many_documents_as_it_was_stored_for(
    stub: CacheServiceAsyncStub,
) -> None:
    await store(stub, top_k=3, documents=documents(*range(10)))
    for query in ("query", "another"):
        assert len(ids(await ask(stub, query, top_k=1))) == 1
        assert len(ids(await ask(stub, query, top_k=3))) == 3
    assert (await ask(stub, "another", top_k=4)).HasField("miss")
    lease = (await ask(stub, top_k=4)).miss.lease
    assert lease
    await store(stub, top_k=4, documents=documents(*range(10)), lease=lease)
    assert len(ids(await ask(stub, top_k=4))) == 4


async def test_a_waiting_caller_gets_what_another_retrieves(stub: CacheServiceAsyncStub) -> None:
    lease = (await ask(stub)).miss.lease
    waiting = asyncio.create_task(ask(stub, wait=Duration(seconds=30)))
    assert (await ask(stub)).miss.in_progress
    await store(stub, lease=lease)
    assert (await waiting).hit.kind == pb.RAG_HIT_KIND_EXACT


async def test_a_waiting_caller_who_needs_more_documents_leads_next(
    stub: CacheServiceAsyncStub,
) -> None:
    lease = (await ask(stub)).miss.lease
    waiting = asyncio.create_task(ask(stub, top_k=9, wait=Duration(seconds=30)))
    await store(stub, lease=lease)
    assert (await waiting).miss.lease


TARGETS = {
    "document": {"document": "doc 3"},
    "collection": {"collection": "faq"},
    "model": {"model": "model"},
    "masterplan": {"masterplan": "plan"},
    "tag": {"tag": "tag"},
    "everything": {"everything": True},
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
async def test_what_is_invalidated_is_neither_an_exact_nor_a_similar_hit(
    stub: CacheServiceAsyncStub, target: dict[str, Any]
) -> None:
    await store(stub, masterplan="plan", tags=["tag"])
    await store(stub, "kept?", 80.0, documents=documents(80))
    assert (await ask(stub, "near", 1.0)).HasField("hit")
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", **target))
    assert (await ask(stub)).HasField("miss")
    assert (await ask(stub, "near", 1.0)).HasField("miss")
    kept = "document" in target or "masterplan" in target or "tag" in target
    assert (await ask(stub, "near it", 81.0, top_k=1)).HasField("hit") == kept
    await store(stub)  # what is stored afterwards is valid
    assert (await ask(stub, "near", 1.0)).hit.kind == pb.RAG_HIT_KIND_SIMILAR


async def test_a_retrieval_that_an_invalidation_overtook_is_not_served(
    stub: CacheServiceAsyncStub,
) -> None:
    lease = (await ask(stub)).miss.lease
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="doc 1"))
    assert (await store(stub, lease=lease)).status == pb.SET_STATUS_OVERTAKEN
    assert (await ask(stub, "near", 1.0)).HasField("miss")


async def test_a_result_expires(stub: CacheServiceAsyncStub) -> None:
    await store(stub, ttl=Duration(seconds=1))
    assert (await ask(stub, "near", 1.0)).HasField("hit")

    async def gone() -> bool:
        return (await ask(stub, "near", 1.0)).HasField("miss")

    await eventually(gone)
    assert (await ask(stub)).HasField("miss")


async def test_candidates_with_embeddings_are_ranked_anew(stub: CacheServiceAsyncStub) -> None:
    angles = range(-15, 16)
    by_query = documents(*sorted(angles, key=abs), embedded=True)
    await store(stub, documents=by_query, top_k=5)
    hit = (await ask(stub, "near", 4.2, top_k=3)).hit
    assert [document.id for document in hit.documents] == ["doc 4", "doc 5", "doc 3"]
    assert hit.documents[0].score == pytest.approx(math.cos(math.radians(0.2)), abs=1e-6)
    assert (hit.reranked, hit.certified) == (True, False)  # the search was not declared exact
    assert not hit.documents[0].embedding
    certified_only = {"min_certainty": pb.CERTAINTY_CERTIFIED}
    assert (await ask(stub, "near", 4.2, top_k=3, **certified_only)).HasField("miss")

    await store(stub, documents=by_query, top_k=5, exact_search=True)
    hit = (await ask(stub, "near", 4.2, top_k=3, **certified_only)).hit
    assert (hit.reranked, hit.certified) == (True, True)
    # A document at 17 degrees would be as near to 9 as the candidate at 1.
    assert not (await ask(stub, "near", 9.0, top_k=15)).hit.certified
    index = (await stub.Stats(pb.StatsRequest())).rag_index
    assert (index.partitions, index.rows) == (1, 1)
    assert (index.reranked_hits, index.certified_hits) == (2, 1)


async def test_thresholds_are_settings(serve: Serve, store_settings: dict[str, Any]) -> None:
    stub = await serve(
        **store_settings,
        rag_threshold=0.99,
        rag_rerank_threshold=0.9,
        rag_collection_thresholds={"strict": 0.999},
    )
    strict: dict[str, Any] = {"collection": "strict"}
    await store(stub)
    assert (await ask(stub, "near", 10.0)).HasField("miss")  # 0.985
    await store(stub, documents=documents(1, 2, 3, embedded=True))
    assert (await ask(stub, "near", 10.0)).hit.reranked
    await store(stub, identity=identity(**strict), documents=documents(1, 2, 3, embedded=True))
    near = identity("near", 4.0, **strict)  # 0.9976
    assert (await ask(stub, identity=near)).HasField("miss")


async def test_texts_are_shown_only_where_they_are_kept(
    serve: Serve, store_settings: dict[str, Any]
) -> None:
    stub = await serve(**store_settings, rag_store_texts=True)
    await store(stub, "the first text")
    assert (await ask(stub, "near", 1.0)).hit.cached_query == "the first text"


async def test_switched_off_it_stores_and_finds_nothing(
    serve: Serve, store_settings: dict[str, Any]
) -> None:
    stub = await serve(**store_settings, rag_cache_enabled=False)
    assert (await store(stub)).status == pb.SET_STATUS_DISABLED
    assert not (await ask(stub)).miss.lease


async def test_what_is_counted(stub: CacheServiceAsyncStub) -> None:
    await ask(stub)  # a miss without a search: the libraries are not there yet
    await store(stub, cost_usd=0.5, compute_time=Duration(seconds=2))
    await ask(stub)  # exact
    await ask(stub, "near", 1.0)  # similar
    await ask(stub, "far", 60.0, allow_similar=False)  # a miss without a search
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="doc 1"))
    stats = await stub.Stats(pb.StatsRequest(namespace="ns"))
    layers = {layer.cache_layer: layer for layer in stats.layers}
    exact, similar = layers["rag"], layers["rag_similarity"]
    assert (exact.total_hits, exact.total_misses) == (1, 2)
    assert (similar.total_hits, similar.total_misses) == (1, 0)
    assert (exact.total_writes, exact.total_invalidations) == (1, 1)
    assert (exact.spent_usd, exact.saved_usd, similar.saved_usd) == (0.5, 0.5, 0.5)
    assert (exact.saved_seconds, similar.saved_seconds) == (2, 2)
    assert (exact.computed_seconds, similar.computed_seconds) == (2, 0)
    assert stats.combined_hit_rate == 0.5
