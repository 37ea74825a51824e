"""How the search in vector sets cleans up behind itself, and what bounds it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mge_cache_server.epochs import Epochs
from mge_cache_server.model import EntryKey, Partition
from mge_cache_server.rag_neighbours import StoredQuery
from mge_cache_server.rag_vector_sets import PARTITIONS_MAX, VectorSets
from mge_cache_server.stores import vectors_of
from tests.unit.vectors import key_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache_server.redis_store_vectors import RedisVectors
    from mge_cache_server.store import Store

FAQ = "collection:faq"
EAST = np.array([1, 0], np.float32)
AT_ONCE = 64
"""How many removals may be under way."""


def partition(number: int) -> Partition:
    return Partition(EntryKey("ns", key_of(number)), 2, ("model:m", FAQ))


PLACE = partition(1)


class Sidecar:
    """What a sidecar has for vector sets, with a clock that the tests move."""

    def __init__(self, store: Store) -> None:
        self.now_s = 1000.0
        self.failures: list[str] = []
        self.store = store
        self.epochs = Epochs(store, retention_s=1e6, timeout_s=1e6, on_regress=lambda _: None)
        self.sets = VectorSets(
            store,
            vectors_of(store),
            self.epochs,
            failed=lambda _, operation: self.failures.append(operation),
            now=lambda: self.now_s,
        )

    @property
    def vectors(self) -> RedisVectors:
        return vectors_of(self.store)

    async def keep(self, number: int, *, ttl_s: float = 60.0, where: Partition = PLACE) -> None:
        known = await self.epochs.refresh("ns")
        query = StoredQuery(key_of(number), EAST, known.clock, ttl_s)
        await self.sets.keep(where, query, shared=True)

    async def nearest(self, least: float = 0.9) -> list[bytes]:
        return [digest async for digest in self.sets.nearest(PLACE, EAST, least)]

    async def count(self) -> int:
        """How many there are, without removing any."""
        return (await self.vectors.tend(PLACE.key, floor=0, at_most=0)).rows


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(store)
    try:
        yield sidecar
    finally:
        await sidecar.sets.close()


@pytest.fixture
def kind() -> str:
    return "redis8"


@pytest.fixture
async def sidecar(store: Store) -> AsyncIterator[Sidecar]:
    async with running(store) as started:
        yield started


async def test_what_is_not_shared_is_not_stored(sidecar: Sidecar) -> None:
    await sidecar.sets.keep(PLACE, StoredQuery(key_of(1), EAST, 1, 60.0), shared=False)
    assert await sidecar.nearest() == []
    assert sidecar.sets.statistics().rows == 0


async def test_a_search_stops_at_the_threshold(sidecar: Sidecar) -> None:
    await sidecar.keep(1)
    assert await sidecar.nearest(1.0) == [key_of(1)]  # the cosine of float32 numbers, with a slack
    north = np.array([0, 1], np.float32)
    assert [digest async for digest in sidecar.sets.nearest(PLACE, north, 0.1)] == []


async def test_a_partition_that_is_only_searched_is_cleaned_up_in_full(
    sidecar: Sidecar, other: Store
) -> None:
    await sidecar.keep(1000)
    for number in range(600):  # more than twice what is removed at once
        content = EAST.tobytes()
        await sidecar.vectors.put(
            PLACE.key, key_of(number), content, tick=2**52, floor=0, ttl_s=600.0
        )
    async with running(other) as reader:
        assert len(await reader.nearest()) == 16
        for number in range(600):
            content = EAST.tobytes()
            await sidecar.vectors.put(
                PLACE.key, key_of(number), content, tick=2**52, floor=0, ttl_s=0.001
            )
        left = await reader.count()
        assert left > 1
        await reader.nearest()
        assert await reader.count() == left  # not again within ten seconds
        reader.now_s += 10.0
        await reader.nearest()

        async def clean() -> bool:
            return await reader.count() == 1

        await eventually(clean)
        assert await reader.nearest() == [key_of(1000)]
        reader.now_s += 10.0
        await reader.nearest()
        await eventually(lambda: reader.sets.statistics().rows == 1)
        assert reader.failures == []


async def test_no_more_removals_are_under_way_than_allowed(sidecar: Sidecar) -> None:
    for number in range(AT_ONCE + 30):
        await sidecar.keep(number)

    async def at_rest() -> bool:
        before = await sidecar.count()
        return not sidecar.sets._background and await sidecar.count() == before

    await eventually(at_rest)
    for number in range(AT_ONCE + 30):
        sidecar.sets.drop(PLACE, key_of(number))
    await eventually(at_rest)
    assert await sidecar.count() == 30
    assert sidecar.failures == []


async def test_a_vector_whose_entry_is_there_is_not_removed(sidecar: Sidecar) -> None:
    await sidecar.keep(1)
    await sidecar.store.put(EntryKey("ns", key_of(1)), b"an entry", 60.0)
    sidecar.sets.drop(PLACE, key_of(1))
    await eventually(lambda: not sidecar.sets._background)
    assert await sidecar.count() == 1


async def test_an_invalidation_of_the_partition_empties_it_before_the_next_search(
    sidecar: Sidecar, other: Store
) -> None:
    async with running(other) as theirs:
        for number in range(40):
            await sidecar.keep(number)
        await theirs.epochs.refresh("ns")
        assert len(await theirs.nearest()) == 16
        await theirs.epochs.advance("ns", "tag:x")  # concerns some of it at most
        assert len(await theirs.nearest()) == 16
        await theirs.epochs.advance("ns", FAQ)
        assert await theirs.nearest() == []
        assert await sidecar.count() == 0
        await sidecar.keep(1)
        assert await theirs.nearest() == [key_of(1)]


async def test_a_bounded_number_of_partitions_is_remembered(sidecar: Sidecar) -> None:
    for number in range(PARTITIONS_MAX + 5):
        await sidecar.keep(1, where=partition(number))
    shown = sidecar.sets.statistics()
    assert (shown.partitions, shown.rows) == (PARTITIONS_MAX, PARTITIONS_MAX)
    assert shown.kind == "vector-sets"


async def test_closing_ends_what_is_under_way(store: Store) -> None:
    async with running(store) as sidecar:
        for number in range(20):
            await sidecar.keep(number)
            sidecar.sets.drop(PLACE, key_of(number))
    assert not sidecar.sets._background
