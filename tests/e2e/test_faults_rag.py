"""Faults while retrievals are shared: rows that the feed did not tell of, stores that fail."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.test_invalidation import PATIENT
from tests.e2e.test_rag import VECTOR_SETS, found, identity, is_similar, near, store
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers import RedisServer

    OwnServer = Callable[..., RedisServer]

INDEXES = {"local": ("valkey9", ()), "vector-sets": ("redis8", VECTOR_SETS)}
ROUNDS = 5


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def two(launch: Launch, server: RedisServer, index: str) -> list[Sidecar]:
    """Start two sidecars that have searched the partition, and wait until both are connected."""
    options = (*PATIENT, *INDEXES[index][1])
    sidecars = [await launch(server.url, options=options, http=True) for _ in range(2)]
    for sidecar in sidecars:
        await faults.until_connected(sidecar)
        assert (await near(sidecar, 0)).HasField("miss")
    assert (await store(sidecars[0], 0)).status == pb.SET_STATUS_STORED
    for sidecar in sidecars:
        await found(sidecar, 0)
    return sidecars


async def test_rows_that_were_put_while_the_feed_was_lost_are_found(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    one, other = await two(launch, server, index)
    server.execute("ACL", "SETUSER", "default", "-subscribe")
    await asyncio.to_thread(lambda: server.execute("CLIENT", "KILL", "TYPE", "pubsub"))
    await faults.until_logged(one, faults.DOWN[1])
    seeds = range(1, 1 + ROUNDS)
    for seed in seeds:
        await store(other, seed)
        assert await is_similar(other, seed)
    server.execute("ACL", "SETUSER", "default", "+subscribe")
    await faults.until_connected(one, within_s=faults.RECOVERY_S)

    async def all_found() -> bool:
        return all([await is_similar(one, seed) for seed in seeds])

    await eventually(all_found, within_s=faults.RECOVERY_S)


async def test_a_row_that_was_put_as_the_feed_broke_is_found(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    one, other = await two(launch, server, index)
    for seed in range(1, 1 + ROUNDS):
        await asyncio.to_thread(lambda: server.execute("CLIENT", "KILL", "TYPE", "pubsub"))
        await store(other, seed)
        await found(one, seed)
        for sidecar in (one, other):
            await faults.until_connected(sidecar)


async def test_a_document_that_was_invalidated_while_the_feed_was_lost_is_not_served(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    one, other = await two(launch, server, index)
    server.execute("ACL", "SETUSER", "default", "-subscribe")
    await asyncio.to_thread(lambda: server.execute("CLIENT", "KILL", "TYPE", "pubsub"))
    await faults.until_logged(one, faults.DOWN[1])
    await other.stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="doc 0"))
    assert (await near(one, 0)).HasField("miss")  # the store is asked at each look-up
    exact = await one.stub.QueryRAG(pb.QueryRAGRequest(identity=identity(0), top_k=1))
    assert exact.HasField("miss")


async def test_a_store_that_comes_back_empty_serves_nothing_old(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    one, other = await two(launch, server, index)
    await asyncio.to_thread(lambda: server.restart(empty=True))
    for sidecar in (one, other):
        await faults.until_connected(sidecar)
    # Whoever asks the store first learns that its clock is new, and the others with it.
    assert (await store(other, 1)).status == pb.SET_STATUS_STORED
    await eventually(lambda: is_similar(one, 1), within_s=faults.RECOVERY_S)
    assert (await near(one, 0)).HasField("miss")
    assert (await near(other, 0)).HasField("miss")


async def test_scripts_forgotten(launch: Launch, own_server: OwnServer, index: str) -> None:
    server = own_server(INDEXES[index][0])
    one, other = await two(launch, server, index)
    server.execute("SCRIPT", "FLUSH")
    assert (await store(one, 1)).status == pb.SET_STATUS_STORED
    await eventually(lambda: is_similar(other, 1), within_s=faults.RECOVERY_S)
    figures = await faults.scrape(one)
    for operation in ("put_row", "put_vector", "search_vectors"):
        assert figures.of("v2_cache_errors_total", cache_layer="rag", operation=operation) == 0


async def test_a_store_that_is_out_of_memory_keeps_results_here(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    one, _ = await two(launch, server, index)
    server.execute("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
    assert (await store(one, 1)).status == pb.SET_STATUS_KEPT_LOCALLY
    assert await is_similar(one, 0)
    assert await is_similar(one, 1) == (index == "local")
    same = await one.stub.QueryRAG(pb.QueryRAGRequest(identity=identity(1), top_k=1))
    assert same.hit.kind == pb.RAG_HIT_KIND_EXACT
    server.execute("CONFIG", "SET", "maxmemory", "0")
    assert (await store(one, 2)).status == pb.SET_STATUS_STORED
    assert await is_similar(one, 2)


async def test_a_store_that_hangs_costs_its_deadline_and_no_more(
    launch: Launch, own_server: OwnServer, index: str
) -> None:
    server = own_server(INDEXES[index][0])
    options = INDEXES[index][1]
    sidecar = await launch(server.url, options=options)

    async def shared() -> bool:  # a busy machine may take more than the deadline
        stored = (await store(sidecar, 0)).status == pb.SET_STATUS_STORED
        return stored and await is_similar(sidecar, 0)

    await eventually(shared)
    server.pause()
    try:
        taken_s = []
        for seed in range(1, 21):
            started_s = time.perf_counter()
            missed = await near(sidecar, seed)
            taken_s.append(time.perf_counter() - started_s)
            assert missed.miss.degraded
        assert max(taken_s) < faults.CALL_MAX_S
        assert sorted(taken_s)[len(taken_s) // 2] < faults.DEADLINE_S  # the breaker is open
        if index == "local":
            assert await is_similar(sidecar, 0)
    finally:
        server.resume()
    await eventually(lambda: is_similar(sidecar, 0), within_s=faults.RECOVERY_S)
