"""Which documents come back from the cache, under which ids, and why some are not stored."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from langchain_core.documents import Document

from mge_cache import AsyncClient, RagDocument, RagQuery, _shapes
from mge_cache._cached_documents import SIZE_MAX_BYTES, DocumentShape, NotStoredError
from mge_cache.retrieval import CachedRetriever
from tests.retrieval.index import PATIENT
from tests.unit import documents
from tests.unit.documents import Chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.rpc.conftest import Serve

QUERY = [0.5, 0.25]


@pytest.fixture
async def target(serve: Serve) -> str:
    await serve()
    return serve.target


def cached(target: str, found: Sequence[Any], **options: Any) -> CachedRetriever[Any]:
    usual: dict[str, Any] = {"embedding_model": "m", "collection": "c", "allow_similar": False}
    return CachedRetriever(
        lambda _query, _embedding, _k: found,
        target=target,
        timeouts=PATIENT,
        **{**usual, **options},
    )


number = 0


@given(found=documents.documents)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_any_document_comes_back(target: str, found: Any) -> None:
    global number  # noqa: PLW0603 - a new query for each example
    number += 1
    async with cached(target, [found]) as retriever:
        retrieved = await retriever.aretrieve(f"q{number}", QUERY)
        again = await retriever.aretrieve(f"q{number}", QUERY)
    assert again.hit is not None
    assert _shapes.to_json(list(again)) == _shapes.to_json(list(retrieved))
    assert again == retrieved == [found]


async def test_no_documents_are_a_result_too(target: str) -> None:
    async with cached(target, []) as retriever:
        assert await retriever.aretrieve("q", QUERY) == []
        assert (await retriever.aretrieve("q", QUERY)).hit is not None


async def test_what_cannot_be_stored_is_returned(target: str) -> None:
    @dataclass
    class Local:
        id: str

    unknown = [Local("a"), Local("b")]
    async with cached(target, unknown, k=1) as retriever:
        for _ in range(3):
            found = await retriever.aretrieve("q", QUERY)
            assert found[0] is unknown[0]
            assert len(found) == 1
        assert retriever.stats.uncached == {"document": 3}
        assert retriever.stats.retrieved == 3
        assert retriever.stats.failures == 0
    async with cached(target, unknown, document_types=[Local]) as retriever:
        await retriever.aretrieve("q", QUERY)
        assert (await retriever.aretrieve("q", QUERY)).hit is not None
    async with cached(target, unknown) as retriever:  # it does not know the class
        for _ in range(2):
            assert (await retriever.aretrieve("q", QUERY)).hit is None
        assert retriever.stats.uncached == {"unreadable": 2, "document": 2}


async def test_callers_do_not_wait_for_what_is_never_stored(target: str) -> None:
    found: list[Any] = [object()]
    async with cached(target, found, wait_s=60.0) as retriever:
        assert retriever._options_of(None, filter=None).wait_s == 60.0
        await retriever.aretrieve("a", QUERY)
        assert retriever._options_of(None, filter=None).wait_s == 0.0
        found.clear()
        await retriever.aretrieve("b", QUERY)
        assert retriever._options_of(None, filter=None).wait_s == 60.0


async def test_large_results(target: str) -> None:
    large = ["x" * (SIZE_MAX_BYTES - 1000), "y" * 2000]
    for k, reasons in ((2, {"size": 1}), (1, {})):
        async with cached(target, large, k=k) as retriever:
            assert await retriever.aretrieve("q", QUERY) == large[:k]
            assert retriever.stats.uncached == reasons


async def test_queries_that_cannot_be_cached(target: str) -> None:
    async with cached(target, ["d"]) as retriever:
        for query, embedding in (("q", [0.0, 0.0]), ("q", [float("nan")]), ("\ud800", QUERY)):
            assert await retriever.aretrieve(query, embedding) == ["d"]
        assert await retriever.aretrieve("q", QUERY, 101) == ["d"]
        assert await retriever.aretrieve("q", QUERY, filter=None) == ["d"]
        assert retriever.stats.uncached == {"query": 3, "k": 1}
        assert retriever.stats.retrieved == 5


async def test_what_somebody_else_stored_is_replaced(target: str) -> None:
    async with AsyncClient(target) as client, cached(target, ["mine"], k=1) as retriever:
        query = RagQuery(embedding_model="m", collection="c", query="q", embedding=QUERY)
        await client.store_rag(query, [RagDocument("a", b"plain")])
        assert (await retriever.aretrieve("q", QUERY)).hit is None
        assert retriever.stats.uncached == {"unreadable": 1}
        await retriever.aflush()
        found = await retriever.aretrieve("q", QUERY)
        assert (found, found.hit is None) == (["mine"], False)


def written(found: Sequence[Any], *, k: int = 10, **shape: Any) -> tuple[RagDocument, ...]:
    return DocumentShape(**shape).documents(found, top_k=k, dimension_bytes=8)


def test_ids() -> None:
    unique = uuid.UUID(int=7)
    named: list[tuple[Any, str]] = [
        ({"id": "a"}, "a"),
        ({"id": 5}, "5"),
        ({"id": unique}, str(unique)),
        (Chunk("c", "t"), "c"),
        (Document(id="d", page_content=""), "d"),
        ((Document(id="d", page_content=""), 0.5), "d"),
    ]
    for document, wanted in named:
        assert written([document])[0].id == wanted
    unnamed: list[Any] = [
        {"id": ""},
        {"id": None},
        {"id": "x" * 257},
        {"id": "a\n"},
        {"id": "\ud800"},
        {"id": ["a"]},
        "text",
        Document(page_content="text"),
    ]
    for document in unnamed:
        content = hashlib.sha256(_shapes.to_json(document)).hexdigest()
        assert written([document])[0].id == content
    of_source: dict[str, Any] = {"id_of": lambda document: document["metadata"]["source"]}
    assert written([{"id": "a", "metadata": {"source": "s"}}], **of_source)[0].id == "s"


def test_scores() -> None:
    for document, wanted in (
        ({"score": 0.5}, 0.5),
        ({"score": np.float32(0.25)}, 0.25),
        ({"score": float("nan")}, 0.0),
        ({"score": "high"}, 0.0),
        ({"score": 10**400}, 0.0),
        ((Document(page_content=""), 0.75), 0.75),
        ((0.5, 0.25), 0.0),
        ("text", 0.0),
    ):
        assert written([document])[0].score == wanted


def test_embeddings_are_sent_if_all_have_them() -> None:
    a, b, long = ({"embedding": each} for each in ([1.0, 2.0], np.ones(2, "f4"), [1.0, 2.0, 3.0]))
    assert all(document.vector for document in written([a, b]))
    for wrong in (long, {}, {"embedding": None}, {"embedding": [0.0, 0.0]}, {"embedding": "text"}):
        found = written([a, wrong, b], k=2)
        assert [document.vector for document in found] == [b"", b""]
    assert not written([a], rerank=False)[0].vector
    mine: dict[str, Any] = {"embedding_of": lambda _: b"\0\0\x80\x3f" * 2}
    assert len(written(["x", "y", "z"], k=1, **mine)) == 3


def test_over_fetched_documents_are_left_out_where_they_do_not_fit() -> None:
    found = [{"embedding": [1.0, 2.0], "text": "x" * (SIZE_MAX_BYTES // 3)} for _ in range(4)]
    assert len(written(found, k=2)) == 2
    with pytest.raises(NotStoredError, match="size"):
        written(found, k=3)
    assert len(written([{"embedding": [1.0, 2.0]}] * 1500, k=2)) == 1000
