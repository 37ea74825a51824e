"""What partitions do in other threads, and how little they do at once on the event loop's."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.rag_index import READ_BYTES, Fullness, PartitionIndex, Surroundings
from tests.unit.partitions import FAR_S, TICK, GatedExecutor, Scene, partition, some
from tests.unit.scene import Gate, digest, turns
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDE = partition(1, 384)
MANY = 2700
"""Of ``WIDE``: more than a million numbers."""


@pytest.fixture
def tender() -> Iterator[GatedExecutor]:
    executor = GatedExecutor()
    yield executor
    executor.gate.set()
    executor.shutdown()


async def test_a_load_never_does_much_at_once() -> None:
    """However many rows there are, the event loop takes them in small portions."""
    scene = Scene()
    rows = some(MANY, 384)
    await scene.put_many(rows, of=WIDE)
    await scene.partitions.search(WIDE, rows[0], 0.9999, lambda _: False)
    await eventually(lambda: scene.partitions.rows == MANY, within_s=60)
    assert max(scene.store.asked) * 384 * 4 <= READ_BYTES
    assert sum(scene.store.asked) == MANY, "and takes none twice"
    await scene.partitions.close()


async def test_a_load_rests_between_its_pages_and_gets_its_memory_beforehand() -> None:
    """Blocks are as large as what is coming, and touched in the tender's thread."""
    scene = Scene()
    rows = some(MANY, 384)
    await scene.put_many(rows, of=WIDE)
    await scene.partitions.search(WIDE, rows[0], 0.9999, lambda _: False)
    await eventually(lambda: scene.partitions.rows == MANY, within_s=60)
    assert scene.rests == len(scene.store.asked) - 1, "the store in memory lists all at once"
    index = scene.partitions._partitions[WIDE.key].index
    assert [block.capacity for block in index._blocks] == [MANY]

    def is_fitted() -> bool:
        scene.partitions._partitions[WIDE.key].tend()
        return index._blocks[0].prefix is not None

    await eventually(is_fitted, within_s=60)
    assert await scene.find(rows[7], of=WIDE) == digest(7)
    await scene.partitions.close()


async def test_no_memory_is_taken_for_rows_that_are_too_old() -> None:
    """After an invalidation of the collection, the store has them until their time is over."""
    scene = Scene()
    rows = some(6000)
    for number, row in enumerate(rows):
        await scene.put(number, row, of=partition(), tick=TICK + 2 * (number % 10 == 0))
    scene.invalidate(TICK + 1)
    await scene.partitions.search(partition(), rows[0], 0.9999, lambda _: False)
    await eventually(lambda: scene.partitions.rows == 600, within_s=60)
    index = scene.partitions._partitions[partition().key].index
    assert sum(block.capacity for block in index._blocks) < 3000
    assert index._reserved is None
    await scene.partitions.close()


async def test_no_page_is_read_while_upkeep_is_under_way(tender: GatedExecutor) -> None:
    """Together they would take the processors and Python's lock from all other calls."""
    scene = Scene()
    around = Surroundings(
        *(scene.store, scene.bounds, Fullness(), tender),
        *(lambda *_: None, lambda: None, scene.rest, scene.clock),
    )
    rows = some(1200)
    await scene.put_many(rows[:900], of=partition())
    found = PartitionIndex(partition(), 0, around)
    found.catch_up()
    await turns(200)
    assert (tender.submitted, len(scene.store.asked)) == (1, 1), "memory comes first"
    tender.gate.set()
    await eventually(lambda: found.index.rows == 900)
    tender.gate.clear()
    for number in range(900, 1200):
        found.add(digest(number), rows[number], FAR_S)
    found.tend()
    await turns()
    assert tender.submitted == 2, "a fit"
    await scene.put(5000, rows[0], of=partition())
    found.put_by_other(digest(5000))
    scene.store.asked.clear()
    await turns(200)
    assert scene.store.asked == []
    tender.gate.set()
    await eventually(lambda: found.index.rows == 1201)
    await asyncio.gather(*found.end(), return_exceptions=True)


async def test_a_large_partition_is_searched_in_another_thread_a_small_one_is_not() -> None:
    scene = Scene()
    rows = some(MANY, 384)
    searched_in: list[str] = []

    def admits(_: bytes) -> bool:
        searched_in.append(threading.current_thread().name)
        return True

    scene.partitions.add(partition(2), digest(1), some(1)[0], FAR_S)
    await scene.search(some(1)[0], of=partition(2), admits=admits)
    for number, row in enumerate(rows):
        scene.partitions.add(WIDE, digest(number), row, FAR_S)
    await scene.search(rows[5], of=WIDE, admits=admits)
    assert searched_in[0] == threading.current_thread().name
    assert searched_in[1].startswith("mge-search")
    await scene.partitions.close()


async def test_rows_are_found_while_upkeep_is_under_way(tender: GatedExecutor) -> None:
    """Fitting, projecting and compacting happen in the tender's thread; nobody waits for it."""
    scene = Scene()
    around = Surroundings(
        scene.store,
        scene.bounds,
        Fullness(),
        tender,
        lambda *_: None,
        lambda: None,
        scene.rest,
        scene.clock,
    )
    found = PartitionIndex(partition(), 0, around)
    index, rows = found.index, some(2200)
    for number in range(1500):
        index.add(digest(number), rows[number], expires_s=FAR_S)
    found.tend()
    found.tend()
    await turns()
    assert tender.submitted == 1, "one thing at a time"
    for number in range(1500, 2200):
        index.add(digest(number), rows[number], expires_s=FAR_S)
    for number in range(700):
        index.remove(digest(number))
    for number in (0, 699, 700, 2199):
        match = index.search(rows[number], 0.9999, lambda _: True)
        assert (match is not None and match.key == digest(number)) == (number >= 700)
    tender.gate.set()

    def is_compacted() -> bool:
        found.tend()
        return sum(each.used for each in index._blocks) < 1700

    await eventually(is_compacted, within_s=60)
    assert tender.submitted > 3
    for number in (0, 699, 700, 2199):
        match = index.search(rows[number], 0.9999, lambda _: True)
        assert (match is not None and match.key == digest(number)) == (number >= 700)
    await asyncio.gather(*found.end(), return_exceptions=True)


@pytest.mark.parametrize("operation", ["list_rows", "read_rows"])
async def test_closing_ends_a_load_that_is_under_way(operation: str) -> None:
    scene = Scene()
    await scene.put_many(some(5), of=partition())
    gate = scene.store.after[operation] = Gate()
    await scene.load(of=partition())
    assert gate.waiting == 1
    await asyncio.wait_for(scene.partitions.close(), 30)
    assert gate.waiting == 1, "it was given up where it was"
    assert scene.partitions.rows == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not [each for each in threading.enumerate() if each.name.startswith("mge-")]


async def test_closing_waits_for_upkeep_and_leaves_no_thread() -> None:
    scene = Scene()
    for number, row in enumerate(some(3000)):
        scene.partitions.add(partition(), digest(number), row, FAR_S)
    await turns(1)  # a fit begins
    await asyncio.wait_for(scene.partitions.close(), 30)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not [each for each in threading.enumerate() if each.name.startswith("mge-")]
