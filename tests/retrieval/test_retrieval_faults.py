"""What a retriever's callers see when its sidecar is away, hangs, dies, or is slow to store."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import Timeouts
from mge_cache._deferred import PENDING_MAX
from mge_cache.retrieval import CachedRetriever
from tests.retrieval.index import PATIENT, Passage, Search, best, vector
from tests.rpc.sidecar_double import SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.sidecars import Launch

# Tries again soon; a look-up that hangs is given up soon.
BRISK = Timeouts(get_s=0.5, set_s=20.0, slice_margin_s=20.0, retry_s=0.05)


def cached(target: str, search: Any, timeouts: Timeouts = BRISK) -> CachedRetriever[Passage]:
    return CachedRetriever(
        search, embedding_model="m", collection="c", k=3, target=target, timeouts=timeouts
    )


@pytest.fixture(params=["sync", "async"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask(retriever: CachedRetriever[Any], way: str, query: str, number: int) -> Any:
    """Retrieve in one of the two ways, and check what was found."""
    if way == "async":
        found = await retriever.aretrieve(query, vector(number))
    else:
        found = await asyncio.to_thread(retriever.retrieve, query, vector(number))
    assert found == best(vector(number), 3)
    return found


async def hits(retriever: CachedRetriever[Any], way: str) -> bool:
    """Whether the cache answers."""
    return (await ask(retriever, way, "again", 1)).hit is not None


async def test_down_and_back(launch: Launch, way: str) -> None:
    sidecar = await launch()
    async with cached(sidecar.target, Search()) as retriever:
        await ask(retriever, way, "q", 0)
        sidecar.kill()
        for number in range(5):
            assert (await ask(retriever, way, f"q{number}", number)).hit is None
        stats = retriever.stats
        assert stats.retrieved == 6
        assert stats.failures >= 5
        await sidecar.start()
        await eventually(lambda: hits(retriever, way), within_s=30)


async def test_never_there(way: str) -> None:
    search = Search()
    async with cached("unix:/nowhere/at/all", search) as retriever:
        for number in range(5):
            await ask(retriever, way, f"q{number}", number)
    assert len(search.calls) == 5


async def test_hanging_and_back(launch: Launch, way: str) -> None:
    sidecar = await launch()
    async with cached(sidecar.target, Search()) as retriever:
        await ask(retriever, way, "q", 0)
        await retriever.aflush()
        sidecar.send(signal.SIGSTOP)
        try:
            for number in range(6):
                assert (await ask(retriever, way, f"q{number}", number)).hit is None
            assert retriever.stats.failures >= 6
        finally:
            sidecar.send(signal.SIGCONT)
        await eventually(lambda: hits(retriever, way), within_s=30)


async def test_killed_in_mid_call(launch: Launch, way: str) -> None:
    sidecar = await launch()
    search = Search(waits=True)
    async with cached(sidecar.target, search) as retriever:
        asking = asyncio.create_task(ask(retriever, way, "q", 2))
        await eventually(search.asked.is_set)
        sidecar.kill()
        search.go.set()
        assert (await asking).hit is None
        await retriever.aflush()
        assert retriever.stats.failures == 1  # the store


async def test_killed_while_others_wait(launch: Launch, way: str) -> None:
    sidecar = await launch()
    search = Search(waits=True)
    async with cached(sidecar.target, search) as retriever:
        first = asyncio.create_task(ask(retriever, way, "q", 2))
        await eventually(search.asked.is_set)
        second = asyncio.create_task(ask(retriever, way, "q", 2))
        sidecar.kill()
        await eventually(lambda: len(search.calls) == 2, within_s=30)
        search.go.set()
        await asyncio.gather(first, second)


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


async def test_nobody_waits_for_a_store(double: SidecarDouble, way: str) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.add("StoreRAG")
    retriever = cached(target, Search(), Timeouts(get_s=20.0, set_s=60.0))
    await ask(retriever, way, "q", 3)
    await eventually(lambda: len(double.results) == 1)
    assert double.open_holds == 1  # nobody else retrieves in the meantime
    await double.stop()
    await retriever.aclose()
    assert retriever.stats.failures == 1


async def test_what_waits_to_be_stored_is_bounded(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.add("StoreRAG")
    retriever = cached(target, Search(), Timeouts(get_s=20.0, set_s=60.0))
    for number in range(PENDING_MAX + 5):
        await ask(retriever, "async", f"q{number}", 4)
    assert retriever.stats.failures == 5
    await eventually(lambda: len(double.leases) == PENDING_MAX, within_s=30)  # 5 are given back
    await double.stop()
    await retriever.aclose()
    assert retriever.stats.failures == PENDING_MAX + 5


async def test_what_waits_in_threads_is_bounded(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.add("StoreRAG")
    retriever = cached(target, Search(), Timeouts(get_s=20.0, set_s=60.0))
    for number in range(PENDING_MAX + 5):
        await ask(retriever, "sync", f"q{number}", 4)
    assert retriever.stats.failures == 5
    await double.stop()
    await retriever.aclose()
    assert retriever.stats.failures == PENDING_MAX + 5


def test_one_loop_after_the_other(launch_in_thread: str) -> None:
    search = Search()
    retriever = cached(launch_in_thread, search, PATIENT)

    async def once() -> bool:
        found = await retriever.aretrieve("q", vector(5))
        await retriever.aflush()
        return found.hit is not None

    assert [asyncio.run(once()) for _ in range(5)] == [False, True, True, True, True]
    loops = [threading.Thread(target=asyncio.run, args=(once(),)) for _ in range(4)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    assert retriever.retrieve("q", vector(5)).hit is not None
    assert search.calls == [3]
    asyncio.run(retriever.aclose())


@pytest.fixture
def launch_in_thread() -> Any:
    """A sidecar's double in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    double = SidecarDouble()
    yield asyncio.run_coroutine_threadsafe(double.start("127.0.0.1:0"), loop).result()
    asyncio.run_coroutine_threadsafe(double.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
