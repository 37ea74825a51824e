"""Vector sets on real servers: what is found, what is cleaned up, and what one without says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.keys import KeyNames
from mge_cache_server.model import EntryKey
from mge_cache_server.redis_store_vectors import VectorSetsError
from mge_cache_server.stores import vectors_of
from tests.servers.fixtures import VECTOR_KINDS
from tests.store.backends import RedisBackend
from tests.unit.vectors import KINDS, beside, key_of, vectors
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache_server.redis_store_vectors import Neighbour, RedisVectors
    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.store import Store
    from tests.servers.fixtures import Servers

PARTITION = EntryKey("ns", bytes(range(32, 64)))
ELSEWHERE = EntryKey("ns", bytes(32))
TICK = 1_750_000_000_000_001
EAST, NORTH = (np.array(each, np.float32) for each in ([1, 0], [0, 1]))


@pytest.fixture(params=VECTOR_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Servers that have vector sets."""
    return str(request.param)


@pytest.fixture
def ours(store: Store) -> RedisVectors:
    """One sidecar's vector sets."""
    return vectors_of(store)


@pytest.fixture
def theirs(other: Store) -> RedisVectors:
    """Another sidecar's, on the same data."""
    return vectors_of(other)


async def put(
    to: RedisVectors,
    number: int,
    vector: Floats = EAST,
    *,
    partition: EntryKey = PARTITION,
    tick: int = TICK,
    floor: int = 0,
    ttl_s: float = 60.0,
) -> int:
    content = vector.astype("<f4").tobytes()
    return await to.put(partition, key_of(number), content, tick=tick, floor=floor, ttl_s=ttl_s)


async def found(
    by: RedisVectors, vector: Floats = EAST, count: int = 16, partition: EntryKey = PARTITION
) -> list[Neighbour]:
    return await by.search(partition, vector.astype("<f4").tobytes(), count)


async def digests(by: RedisVectors, vector: Floats = EAST) -> list[bytes]:
    return [each.digest for each in await found(by, vector)]


async def test_the_server_has_them(ours: RedisVectors) -> None:
    assert await ours.check()


async def test_nothing_is_found_where_nothing_was_put(ours: RedisVectors) -> None:
    assert await found(ours) == []
    assert await ours.tend(PARTITION, floor=TICK, at_most=10) == (0, 0, 0)
    assert await ours.end_of(PARTITION, key_of(1)) is None
    await ours.drop(PARTITION, key_of(1), b"1")


async def test_the_nearest_come_first_with_their_cosines(
    ours: RedisVectors, theirs: RedisVectors
) -> None:
    assert await put(ours, 1, NORTH) == 1
    assert await put(ours, 2, EAST) == 2
    assert await put(theirs, 3, np.array([0.8, 0.6], np.float32)) == 3
    assert await put(theirs, 4, -EAST) == 4
    for each in (ours, theirs):
        assert await digests(each) == [key_of(number) for number in (2, 3, 1, 4)]
        cosines = [cosine for _, cosine in await found(each)]
        assert cosines == pytest.approx([1.0, 0.8, 0.0, -1.0], abs=1e-6)
    assert len(await found(ours, count=2)) == 2
    assert await found(ours, partition=ELSEWHERE) == []


async def test_a_later_vector_takes_the_place_of_an_earlier_one(ours: RedisVectors) -> None:
    await put(ours, 1, NORTH)
    assert await put(ours, 1, EAST) == 1
    [near] = await found(ours)
    assert near.digest == key_of(1)
    assert near.cosine == pytest.approx(1.0)


async def test_what_is_over_is_removed_by_puts_and_by_tending(
    ours: RedisVectors, theirs: RedisVectors
) -> None:
    for number in range(40):
        await put(ours, number, ttl_s=0.001)
    await put(ours, 100)

    async def over() -> bool:  # a put removes sixteen at most
        return await put(theirs, 101) < 30

    await eventually(over)
    first = await theirs.tend(PARTITION, floor=0, at_most=3)
    assert first.removed <= 3

    async def clean() -> bool:
        return (await theirs.tend(PARTITION, floor=0, at_most=1000)).rows == 2

    await eventually(clean)
    assert set(await digests(ours)) == {key_of(100), key_of(101)}


async def test_the_key_lasts_as_long_as_its_longest_vector(
    ours: RedisVectors, servers: Servers, kind: str, key_prefix: str
) -> None:
    with servers.client(kind) as client:
        names = KeyNames(key_prefix).vectors(PARTITION)
        for ttl_s, least_s in ((100.0, 90.0), (10.0, 90.0), (200.0, 190.0)):
            await put(ours, round(ttl_s), ttl_s=ttl_s)
            for name in names:
                assert least_s < client.pttl(name) / 1000 <= 200


async def test_vectors_older_than_the_floor_leave_all_at_once(
    ours: RedisVectors, theirs: RedisVectors
) -> None:
    for number in range(100):
        await put(ours, number, tick=TICK + number)
    assert (await theirs.tend(PARTITION, floor=TICK + 99, at_most=1)).rows == 100
    state = await theirs.tend(PARTITION, floor=TICK + 100, at_most=1)
    assert (state.rows, await found(ours)) == (0, [])
    await put(ours, 1)
    assert await put(ours, 2, tick=TICK + 5, floor=TICK + 5) == 1
    assert await put(theirs, 3, tick=TICK + 6) == 2  # one who knows of no invalidation
    assert await put(theirs, 4, tick=TICK, floor=TICK + 6) == 3


async def test_tending_tells_what_they_take(ours: RedisVectors) -> None:
    rows = vectors("random", 50, 384, 1)
    for number, row in enumerate(rows):
        await put(ours, number, row)
    state = await ours.tend(PARTITION, floor=0, at_most=10)
    assert state.rows == 50
    assert 50 * 384 * 4 < state.size_bytes < 50 * 384 * 4 * 4


async def test_vectors_whose_ends_were_lost_leave(
    ours: RedisVectors, servers: Servers, kind: str, key_prefix: str
) -> None:
    await put(ours, 1)
    with servers.client(kind) as client:
        client.delete(KeyNames(key_prefix).vectors(PARTITION)[1])
    assert await put(ours, 2) == 1


async def test_a_vector_is_dropped_unless_it_was_put_again(
    ours: RedisVectors, theirs: RedisVectors
) -> None:
    await put(ours, 1)
    end = await ours.end_of(PARTITION, key_of(1))
    assert end is not None
    await put(theirs, 1, ttl_s=90.0)
    await ours.drop(PARTITION, key_of(1), end)
    assert await digests(ours) == [key_of(1)]
    later = await ours.end_of(PARTITION, key_of(1))
    assert later is not None
    await ours.drop(PARTITION, key_of(1), later)
    assert await found(theirs) == []


@pytest.mark.parametrize("of", KINDS)
async def test_of_a_few_vectors_all_are_found_in_the_order_of_their_cosines(
    ours: RedisVectors, of: str
) -> None:
    """With as many candidates as vectors, it is what brute force finds."""
    rows = vectors(of, 60, 48, 7)
    for number, row in enumerate(rows):
        await put(ours, number, row)
    random = np.random.default_rng(1)
    for cosine in (1.0, 0.97, 0.5, -0.3):
        query = beside(rows[random.integers(60)], cosine, random)
        near = await found(ours, query, count=60)
        exact = rows.astype(np.float64) @ query.astype(np.float64)
        assert len(near) == len({each.digest for each in near}) == 60
        for digest, told in near:
            assert told == pytest.approx(exact[int.from_bytes(digest, "big")], abs=2e-6)
        told_all = [told for _, told in near]
        assert told_all == pytest.approx(np.sort(exact)[::-1], abs=2e-6)


async def test_a_large_partition_finds_what_brute_force_finds(ours: RedisVectors) -> None:
    rows = vectors("clustered", 3000, 64, 3)
    at_once = asyncio.Semaphore(16)

    async def put_one(number: int) -> None:
        async with at_once:
            await put(ours, number, rows[number])

    await asyncio.gather(*(put_one(number) for number in range(len(rows))))
    random = np.random.default_rng(2)
    right = 0
    for _ in range(100):
        query = beside(rows[random.integers(len(rows))], 0.97, random)
        cosines = rows @ query
        [best, *_] = await found(ours, query)
        right += best.cosine >= cosines.max() - 2e-6
    assert right >= 98  # a graph is approximate; it was 100


async def refused(store: Store) -> str:
    with pytest.raises(VectorSetsError) as error:
        await vectors_of(store).check()
    return str(error.value)


@pytest.mark.parametrize("kind", ["valkey9", "redis7", "cluster", "sentinel"])
async def test_a_server_without_vector_sets_says_so(
    servers: Servers, key_prefix: str, kind: str
) -> None:
    backend = RedisBackend(servers.url(kind), key_prefix, lambda: servers.client(kind))
    store = backend.store()
    try:
        assert "no vector sets: use Redis 8" in await refused(store)
        without = vectors_of(store)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: found(without),
            lambda: put(without, 1),
            lambda: without.tend(PARTITION, floor=0, at_most=1),
        ]
        for call in 4 * calls:  # many times what opens the breaker
            with pytest.raises(StoreUnavailableError):
                await call()
        assert store.available
        assert (await store.lookup(PARTITION)).record is None
    finally:
        await store.close()


async def test_nobody_knows_of_a_server_that_does_not_answer(key_prefix: str) -> None:
    store = RedisBackend("redis://127.0.0.1:1", key_prefix, lambda: pytest.fail("none")).store()
    try:
        assert not await vectors_of(store).check()
        with pytest.raises(StoreUnavailableError):
            await found(vectors_of(store))
    finally:
        await store.close()
