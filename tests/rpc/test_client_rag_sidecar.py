"""The RAG calls of both clients against the sidecar itself, on its in-memory store."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mge_cache import (
    AsyncClient,
    Certainty,
    Client,
    InvalidRequestError,
    RagDocument,
    RagHit,
    RagHitKind,
    RagMiss,
    RagQuery,
    RagResult,
    SetStatus,
    Source,
    Timeouts,
)
from mge_cache_server import app
from mge_cache_server.config import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray

PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)
DIMENSION = 32
TOP_K = 3
CORPUS = np.random.default_rng(7).standard_normal((40, DIMENSION)).astype("f4")
CORPUS /= np.linalg.norm(CORPUS, axis=1, keepdims=True)


def asked(vector: NDArray[np.float32], text: str, collection: str = "faq") -> RagQuery:
    return RagQuery(
        embedding_model="m", embedding=vector, query=text, collection=collection, namespace="space"
    )


def turned(vector: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """A unit vector with this cosine to ``vector``, the same one each time."""
    other = np.random.default_rng(round(cosine * 1e4)).standard_normal(DIMENSION)
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    result: NDArray[np.float32] = (cosine * vector + math.sqrt(1 - cosine**2) * other).astype("f4")
    return result


def search(vector: NDArray[np.float32], count: int = len(CORPUS)) -> list[RagDocument]:
    cosines = CORPUS @ vector
    return [
        RagDocument(
            f"doc-{number}",
            b"text %d" % number,
            score=float(cosines[number]),
            metadata={"n": str(number)},
            embedding=CORPUS[number],
        )
        for number in np.argsort(-cosines)[:count]
    ]


def ids(found: RagHit | RagResult) -> list[str]:
    return [document.id for document in found.documents]


@pytest.fixture
async def target() -> AsyncIterator[str]:
    sidecar = app.build(
        replace(
            Settings(),
            redis_url="memory://",
            listen="127.0.0.1:0",
            http_listen="",
            drain_s=1.0,
            rag_store_texts=True,
        )
    )
    await sidecar.start()
    yield sidecar.targets[0]
    await sidecar.stop()


@pytest.fixture
async def client(target: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(target, timeouts=PATIENT, fail_open=False) as client:
        yield client


async def retrieve(client: AsyncClient, query: RagQuery, count: int = len(CORPUS)) -> RagResult:
    vector = np.frombuffer(query.vector, "<f4")

    async def work() -> list[RagDocument]:
        return search(vector, count)

    return await client.retrieve_or_compute(
        query, work, top_k=TOP_K, exact_search=True, cost_usd=0.25
    )


async def test_exact_similar_certified(client: AsyncClient) -> None:
    first = turned(CORPUS[0], 0.9)
    computed = await retrieve(client, asked(first, "How do I  log in?"), count=10)
    assert (computed.source, ids(computed)) == (
        Source.COMPUTED,
        [document.id for document in search(first, TOP_K)],
    )

    same = await retrieve(client, asked(turned(first, 0.1), " How do I log in?"))
    assert same.hit is not None
    assert (same.hit.kind, same.hit.similarity, ids(same)) == (RagHitKind.EXACT, 1, ids(computed))
    assert same.documents[0].text.startswith("text ")
    assert same.documents[0].metadata == computed.documents[0].metadata

    near = turned(first, 0.96)
    similar = await retrieve(client, asked(near, "How to log in?"))
    assert similar.hit is not None
    assert (similar.hit.kind, similar.hit.reranked) == (RagHitKind.SIMILAR, True)
    assert similar.hit.similarity == pytest.approx(0.96, abs=1e-4)
    assert similar.hit.cached_query == "How do I  log in?"
    assert similar.cost_saved_usd == 0.25
    assert similar.documents[0].score == pytest.approx(
        float(CORPUS[int(similar.documents[0].metadata["n"])] @ near), abs=1e-5
    )

    nearest = turned(first, 0.9999)
    certified = await client.query_rag(
        asked(nearest, "How to log in please?"), top_k=TOP_K, min_certainty=Certainty.CERTIFIED
    )
    assert isinstance(certified, RagHit)
    assert certified.certified
    assert ids(certified) == [document.id for document in search(nearest, TOP_K)]
    index = (await client.stats()).rag_index
    assert (index.rows, index.partitions) == (1, 1)
    assert (index.reranked_hits, index.certified_hits) == (2, 1 + similar.hit.certified)
    layers = {layer.cache_layer: layer for layer in (await client.stats()).layers}
    assert (layers["rag"].total_hits, layers["rag_similarity"].total_hits) == (1, 2)
    assert (layers["rag"].total_misses, layers["rag"].total_writes) == (1, 1)
    assert layers["rag"].saved_usd + layers["rag_similarity"].saved_usd == 0.75


async def test_what_a_look_up_refuses(client: AsyncClient) -> None:
    vector = turned(CORPUS[1], 0.9)
    await client.store_rag(asked(vector, "a"), search(vector, 10), top_k=TOP_K)
    near = asked(turned(vector, 0.97), "b")
    assert isinstance(await client.query_rag(near, top_k=TOP_K), RagHit)
    for refusal in (
        client.query_rag(near, top_k=TOP_K, allow_similar=False, lease_ttl_s=0.01),
        client.query_rag(near, top_k=TOP_K, min_similarity=0.98, lease_ttl_s=0.01),
        client.query_rag(near, top_k=TOP_K, min_certainty=Certainty.CERTIFIED, lease_ttl_s=0.01),
        client.query_rag(near, top_k=TOP_K + 1, lease_ttl_s=0.01),
        client.query_rag(asked(turned(vector, 0.97), "b", "other"), lease_ttl_s=0.01),
        client.query_rag(asked(turned(vector, 0.9), "c"), top_k=TOP_K, min_similarity=-1),
    ):
        assert isinstance(await refusal, RagMiss)


async def test_invalidate_by_document_and_collection(client: AsyncClient) -> None:
    vector = turned(CORPUS[2], 0.9)
    query, near = asked(vector, "a"), asked(turned(vector, 0.99), "b")
    for target in ({"document": search(vector, 10)[-1].id}, {"collection": "faq"}):
        await retrieve(client, query, count=10)
        assert isinstance(await client.query_rag(near, top_k=TOP_K), RagHit)
        await client.invalidate(namespace="space", document="doc-none")
        await client.invalidate(namespace="space", collection="other")
        assert isinstance(await client.query_rag(query, top_k=TOP_K), RagHit)
        await client.invalidate(namespace="space", **target)  # type: ignore[arg-type]
        for each in (query, near):
            found = await client.query_rag(each, top_k=TOP_K, lease_ttl_s=0.01)
            assert isinstance(found, RagMiss)
    await client.invalidate(namespace="space", everything=True)
    stored = await client.store_rag(query, search(vector))
    assert stored.status is SetStatus.STORED
    await client.invalidate(namespace="space", key=query.key)
    assert isinstance(await client.query_rag(query), RagMiss)


async def test_one_of_many_retrieves(client: AsyncClient) -> None:
    vector = turned(CORPUS[3], 0.9)
    calls = 0

    async def work() -> list[RagDocument]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return search(vector)

    results = await asyncio.gather(
        *(client.retrieve_or_compute(asked(vector, "same"), work, top_k=TOP_K) for _ in range(200))
    )
    assert calls == 1
    assert {tuple(ids(result)) for result in results} == {tuple(ids(results[0]))}


async def test_an_overtaken_result_is_not_stored(client: AsyncClient) -> None:
    vector = turned(CORPUS[4], 0.9)
    query = asked(vector, "overtaken")
    miss = await client.query_rag(query)
    assert isinstance(miss, RagMiss)
    assert miss.lease is not None
    await client.invalidate(namespace="space", collection="faq")
    result = await client.store_rag(query, search(vector), lease=miss.lease)
    assert result.status is SetStatus.OVERTAKEN


async def test_limits_of_the_sidecar_name_the_field(client: AsyncClient) -> None:
    query = asked(CORPUS[5], "limits")
    for documents, field in (
        ([RagDocument(f"{number}") for number in range(1001)], "documents"),
        ([RagDocument("d" * 257)], "documents.id"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await client.store_rag(query, documents)
        assert caught.value.field == field


async def test_threads(target: str) -> None:
    def work() -> None:
        vector = turned(CORPUS[6], 0.9)
        with Client(target, timeouts=PATIENT, fail_open=False) as client:
            for query in (asked(vector, "a"), asked(turned(vector, 0.9999), "b")):
                result = client.retrieve_or_compute(
                    query, lambda: search(vector), top_k=TOP_K, exact_search=True
                )
                assert ids(result) == [document.id for document in search(vector, TOP_K)]
            assert result.hit is not None
            assert result.hit.certified

    await asyncio.to_thread(work)
