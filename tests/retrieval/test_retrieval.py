"""CachedRetriever against a sidecar, on each kind of store: from threads and from event loops."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from mge_cache import AsyncClient, Certainty, InvalidRequestError, RagHitKind
from mge_cache.retrieval import CachedRetriever
from tests.retrieval.index import PATIENT, Passage, Search, best, embedding_of, vector
from tests.waiting import eventually


def cached(target: str, search: Any, **options: Any) -> CachedRetriever[Passage]:
    usual: dict[str, Any] = {
        "embedding_model": "m",
        "collection": "c",
        "k": 3,
        "target": target,
        "timeouts": PATIENT,
    }
    return CachedRetriever(search, **{**usual, **options})


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask(retriever: CachedRetriever[Any], way: str, *given: Any, **options: Any) -> Any:
    """Retrieve in one of the two ways."""
    if way == "async":
        return await retriever.aretrieve(*given, **options)
    return await asyncio.to_thread(retriever.retrieve, *given, **options)


async def test_a_miss_then_hits(target: str, way: str) -> None:
    search = Search()
    async with cached(target, search) as retriever:
        query = vector(1, cosine=0.9)
        found = await ask(retriever, way, "one", query)
        at_once = await ask(retriever, way, "one", query)  # while it is being stored
        assert (at_once, at_once.hit is None) == (found, False)
        again = await ask(retriever, way, " one ", query)
        fewer = await ask(retriever, way, "one", query, 2)
        assert found == again == best(query, 3)
        assert fewer == best(query, 2)
        assert found.hit is None
        assert again.hit.kind is RagHitKind.EXACT
        assert {type(passage) for passage in again} == {Passage}
        assert search.calls == [3]
        assert await ask(retriever, way, "one", query, 4) == best(query, 4)
        stats = retriever.stats
    assert (stats.hits + stats.similar_hits, stats.retrieved, stats.failures) == (3, 2, 0)
    assert stats.uncached == {}


async def test_a_similar_hit_is_ranked_anew(target: str, way: str) -> None:
    search = Search()
    options: dict[str, Any] = {
        "embedding_of": embedding_of,
        "with_score": lambda passage, score: replace(passage, score=score),
        "exact_search": True,
    }
    first, near = vector(2, cosine=0.9), vector(2, cosine=0.92)
    async with cached(target, search, **options) as retriever:
        await ask(retriever, way, "first", first)
        await retriever.aflush()
        found = await ask(retriever, way, "near", near)
        assert search.calls == [15]  # 5 times what was wanted
        assert found.hit.kind is RagHitKind.SIMILAR
        assert found.hit.reranked
        wanted = best(near, 3)
        assert [passage.id for passage in found] == [passage.id for passage in wanted]
        assert [passage.score for passage in found] == pytest.approx([w.score for w in wanted])
        assert found[0].metadata == wanted[0].metadata
        assert await ask(retriever, way, "near", near, allow_similar=False) == wanted
        assert search.calls == [15, 15]
        assert retriever.stats.similar_hits == 1


async def test_certified_hits_only(target: str, way: str) -> None:
    options: dict[str, Any] = {"embedding_of": embedding_of, "min_certainty": Certainty.CERTIFIED}
    first, same, near = (vector(2, cosine=cosine) for cosine in (0.9, 0.900001, 0.97))
    for exact_search in (True, False):
        search = Search()
        collection = f"exact {exact_search}"
        async with cached(
            target, search, exact_search=exact_search, collection=collection, **options
        ) as retriever:
            await ask(retriever, way, "first", first)
            await retriever.aflush()
            found = await ask(retriever, way, "same", same)
            assert [passage.id for passage in found] == [each.id for each in best(same, 3)]
            assert (found.hit is not None) == exact_search
            assert found.hit is None or found.hit.certified
            far = await ask(retriever, way, "near", near, min_similarity=0.9999)
            assert far.hit is None


async def test_over_fetching_begins_when_documents_show_their_embeddings(target: str) -> None:
    calls: list[int] = []

    def search(_query: str, embedding: Any, k: int) -> list[dict[str, Any]]:
        calls.append(k)
        passages = best(embedding, k)
        return [{"id": p.id, "embedding": embedding_of(p).tolist()} for p in passages]

    async with cached(target, search, over_fetch=100, k=10) as retriever:
        for number in range(2):
            found = await retriever.aretrieve(f"q{number}", vector(number))
            assert len(found) == 10
    assert calls == [10, 200]
    calls.clear()
    async with cached(target, search, rerank=False, collection="other") as retriever:
        await retriever.aretrieve("a", vector(1, cosine=0.9))
        await retriever.aretrieve("b", vector(2, cosine=0.9))
        await retriever.aflush()
        found = await retriever.aretrieve("c", vector(1, cosine=0.91))
        assert not found.hit.reranked  # type: ignore[union-attr]
    assert calls == [3, 3]


async def test_what_the_source_raises_is_raised(target: str, way: str) -> None:
    search = Search()
    search.error = error = OSError("the index is away")
    async with cached(target, search) as retriever:
        with pytest.raises(OSError, match="the index is away") as caught:
            await ask(retriever, way, "q", vector(3))
        assert caught.value is error
        search.error = None
        assert await ask(retriever, way, "q", vector(3)) == best(vector(3), 3)
        assert (await ask(retriever, way, "q", vector(3))).hit is not None


async def test_equal_queries_at_the_same_time_retrieve_once(target: str, way: str) -> None:
    search = Search(waits=True)
    async with cached(target, search, wait_s=60.0) as retriever:
        query = vector(4)
        if way == "async":
            asking = [asyncio.ensure_future(retriever.aretrieve("q", query)) for _ in range(50)]
        else:
            loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(8)
            asking = [
                loop.run_in_executor(pool, retriever.retrieve, "q", query)  # type: ignore[misc]
                for _ in range(8)
            ]
        await eventually(search.asked.is_set)
        search.go.set()
        results = await asyncio.gather(*asking)
        assert search.calls == [3]
        assert [result.hit for result in results].count(None) == 1
        assert all(result == best(query, 3) for result in results)


async def test_a_cancelled_caller_hands_over(target: str) -> None:
    search = Search(waits=True)
    async with cached(target, search, wait_s=60.0) as retriever:
        first = asyncio.create_task(retriever.aretrieve("q", vector(5)))
        await eventually(lambda: search.calls == [3])
        second = asyncio.create_task(retriever.aretrieve("q", vector(5)))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await eventually(lambda: search.calls == [3, 3])
        search.go.set()
        assert await second == best(vector(5), 3)


async def test_closing_stores_what_waits(target: str, way: str) -> None:
    search = Search()
    async with cached(target, search) as retriever:
        for number in range(20):
            await ask(retriever, way, f"q{number}", vector(number))
    async with cached(target, search, allow_similar=False) as retriever:
        for number in range(20):
            assert (await ask(retriever, way, f"q{number}", vector(number))).hit is not None
    assert len(search.calls) == 20


async def test_flushing_stores_what_waits(target: str, way: str) -> None:
    search = Search()
    async with cached(target, search) as retriever, AsyncClient(target) as client:
        for number in range(5):
            await ask(retriever, way, f"q{number}", vector(number))
        await retriever.aflush()
        assert (await client.stats()).layers[1].total_writes == 5


async def test_what_a_caller_does_to_documents_is_its_own_affair(target: str) -> None:
    async with cached(target, Search()) as retriever:
        found = await retriever.aretrieve("q", vector(6))
        found[0].metadata["mine"] = True
        del found[1:]
        assert await retriever.aretrieve("q", vector(6)) == best(vector(6), 3)


async def test_a_filter_is_part_of_the_query_and_of_the_call(target: str, way: str) -> None:
    asked: list[Any] = []

    def search(_query: str, embedding: Any, k: int, *, filter: Any = None) -> list[Passage]:  # noqa: A002
        asked.append(filter)
        return best(embedding, k)

    async with cached(target, search) as retriever:
        for conditions in ({"n": 1}, {"n": "1"}, None, {"n": 1}):
            await ask(retriever, way, "q", vector(7), filter=conditions)
        assert asked == [{"n": 1}, {"n": "1"}, None]
    async with cached(target, Search(), filter={"n": 1}) as retriever:
        assert (await ask(retriever, way, "q", vector(7))).hit is not None
        with pytest.raises(TypeError, match="takes no filter"):
            await ask(retriever, way, "q", vector(7), filter={"n": 1})


async def test_partitions_do_not_mix(target: str) -> None:
    search = Search()
    for options in (
        {},
        {"collection": "d"},
        {"index_version": "2"},
        {"namespace": "other"},
        {"embedding_model": "n"},
    ):
        async with cached(target, search, **options) as retriever:
            assert (await retriever.aretrieve("q", vector(8))).hit is None
    assert len(search.calls) == 5


async def test_invalidation(target: str) -> None:
    search = Search()
    async with (
        cached(target, search, masterplan="plan", tags=["tag"]) as retriever,
        AsyncClient(target) as client,
    ):
        for invalidation in (
            {"document": best(vector(9), 1)[0].id},
            {"masterplan": "plan"},
            {"tag": "tag"},
            {"collection": "c"},
        ):
            await retriever.aretrieve("q", vector(9))
            await retriever.aflush()
            assert (await retriever.aretrieve("q", vector(9))).hit is not None
            await client.invalidate(**invalidation)  # type: ignore[arg-type]
            assert (await retriever.aretrieve("q", vector(9))).hit is None
        await retriever.aretrieve("q2", vector(10), masterplan="mine", tags=["own"])
        await retriever.aflush()
        await client.invalidate(masterplan="plan")
        assert (await retriever.aretrieve("q2", vector(10))).hit is not None
        await client.invalidate(tag="own")
        assert (await retriever.aretrieve("q2", vector(10))).hit is None


async def test_switched_off_it_is_not_there(
    target: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search()
    async with cached(target, search, embedding_of=embedding_of) as retriever:
        await ask(retriever, way, "q", vector(11))
        for text in ("false", " OFF ", "0", "No"):
            monkeypatch.setenv("MGE_V2_RAG_CACHE_ENABLED", text)
            assert not retriever.enabled
            assert (await ask(retriever, way, "q", vector(11))).hit is None
        for text in ("true", "", "other"):
            monkeypatch.setenv("MGE_V2_RAG_CACHE_ENABLED", text)
            assert retriever.enabled
            assert (await ask(retriever, way, "q", vector(11))).hit is not None
        assert search.calls == [15, 3, 3, 3, 3]  # asked for what was wanted, and no more
        assert retriever.stats.retrieved == 1
    async with cached(target, search, enable_v2_caching=False) as retriever:
        assert (await ask(retriever, way, "q", vector(11))).hit is None
        assert not retriever.enabled


async def test_the_sidecar_can_be_switched_off_too(serve: Any) -> None:
    await serve(rag_cache_enabled=False)
    search = Search()
    async with cached(serve.target, search) as retriever:
        for _ in range(2):
            assert await retriever.aretrieve("q", vector(1)) == best(vector(1), 3)
    assert len(search.calls) == 2


def test_mistakes_show_at_once() -> None:
    search = Search()
    for wrong, field in (
        ({"embedding_model": ""}, "embedding_model"),
        ({"k": 0}, "top_k"),
        ({"k": 101}, "top_k"),
        ({"min_similarity": 2.0}, "min_similarity"),
        ({"tags": "plan"}, "tags"),
        ({"ttl_s": -1.0}, "ttl_s"),
        ({"wait_s": -1.0}, "wait_s"),
        ({"filter": {"a": object()}}, "filter"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            cached("unix:/nowhere", search, **wrong)
        assert caught.value.field == field
    with pytest.raises(ValueError, match="over_fetch must be from 1 to 100"):
        cached("unix:/nowhere", search, over_fetch=0)
