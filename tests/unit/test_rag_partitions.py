"""Partitions in memory: bounds, who leaves first, what is fetched again and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.rag_partitions import PARTITIONS_MAX
from tests.unit.partitions import FAR_S, TICK, Scene, partition, some
from tests.unit.scene import Gate, digest, turns
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import NoReturn

    from mge_cache_server.model import EntryKey
    from mge_cache_server.rag_index import PartitionIndex

FIRST, SECOND, THIRD = (partition(number) for number in (1, 2, 3))


class Unwalked(dict["EntryKey", "PartitionIndex"]):
    """Partitions that must not be looked at all together."""

    def values(self) -> NoReturn:
        raise AssertionError


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.partitions.close()


async def test_all_partitions_together_keep_the_bound_on_rows() -> None:
    scene = Scene(rows_max=10)
    rows = some(20)
    for number in range(6):
        scene.partitions.add(FIRST, digest(number), rows[number], FAR_S - number)
    for number in range(6, 12):
        scene.partitions.add(SECOND, digest(number), rows[number], FAR_S)
    assert (scene.partitions.rows, scene.partitions.left_out) == (10, 2)
    # The partition that was used last keeps its rows; of the other those that end first are gone.
    assert await scene.find(rows[5], of=FIRST) is None
    assert await scene.find(rows[4], of=FIRST) is None
    for number in range(4):
        assert await scene.find(rows[number], of=FIRST) == digest(number)
    for number in range(6, 12):
        assert await scene.find(rows[number], of=SECOND) == digest(number)
    await scene.partitions.close()


async def test_the_partition_that_is_used_stays_in_memory() -> None:
    scene = Scene(rows_max=9)
    rows = some(12)
    for number, each in enumerate((FIRST, SECOND, THIRD)):
        for row in range(3):
            place = 3 * number + row
            scene.partitions.add(each, digest(place), rows[place], FAR_S)
    assert await scene.find(rows[0], of=FIRST) == digest(0)
    for place in range(9, 12):
        scene.partitions.add(THIRD, digest(place), rows[place], FAR_S)
    assert (scene.partitions.rows, scene.partitions.left_out) == (9, 3)
    assert await scene.find(rows[3], of=SECOND) is None
    assert await scene.find(rows[1], of=FIRST) == digest(1)
    await scene.partitions.close()


async def test_a_row_that_was_hit_leaves_last() -> None:
    scene = Scene(rows_max=4)
    rows = some(8)
    for number in range(4):
        scene.partitions.add(FIRST, digest(number), rows[number], FAR_S + number)
    assert await scene.find(rows[0], of=FIRST) == digest(0)
    for number in range(4, 7):
        scene.partitions.add(FIRST, digest(number), rows[number], FAR_S + number)
    assert await scene.find(rows[0], of=FIRST) == digest(0)
    assert [await scene.find(rows[number], of=FIRST) for number in (1, 2, 3)] == [None] * 3
    assert scene.partitions.left_out == 3
    await scene.partitions.close()


async def test_all_partitions_together_keep_the_bound_on_bytes() -> None:
    bytes_max = 200_000
    scene = Scene(bytes_max=bytes_max)
    wide, narrow = partition(1, 256), partition(2, 16)
    rows = {each: some(400, each.dimension) for each in (wide, narrow)}
    for number in range(400):
        for each, kept in rows.items():
            scene.partitions.add(each, digest(number), kept[number], FAR_S + number)
    left = scene.partitions.rows
    assert scene.partitions.left_out == 800 - left

    async def is_compacted() -> bool:
        for each in (wide, narrow):
            await scene.search(rows[each][0], of=each)
        # Rows that were removed and are not compacted yet come on top: a third at most.
        return scene.partitions.size_bytes < 1.34 * bytes_max

    await eventually(is_compacted, within_s=60)
    assert scene.partitions.size_bytes > 0.7 * bytes_max
    assert (scene.partitions.rows, scene.partitions.max_bytes) == (left, bytes_max)
    await scene.partitions.close()


async def test_rows_that_are_not_let_in_while_loading_are_counted() -> None:
    scene = Scene(rows_max=50)
    await scene.put_many(some(80), of=FIRST)
    await scene.load(of=FIRST)
    assert (scene.partitions.rows, scene.partitions.left_out) == (50, 30)
    await scene.partitions.close()


async def test_of_very_many_partitions_the_one_not_used_for_longest_is_forgotten() -> None:
    scene = Scene()
    row = some(1)[0]
    for number in range(PARTITIONS_MAX):
        scene.partitions.add(partition(number), digest(number), row, FAR_S)
    assert await scene.find(row, of=partition(0)) == digest(0)
    scene.partitions.add(partition(PARTITIONS_MAX), digest(0), row, FAR_S)
    assert (len(scene.partitions), scene.partitions.left_out) == (PARTITIONS_MAX, 1)
    assert await scene.find(row, of=partition(0)) == digest(0), "it was used meanwhile"
    assert await scene.find(row, of=partition(1)) is None
    assert scene.partitions.left_out == 2, "the count goes on when a partition is forgotten"
    await scene.partitions.close()


async def test_the_rows_of_the_store_are_loaded_at_the_first_use(scene: Scene) -> None:
    rows = some(40)
    await scene.put_many(rows, of=FIRST)
    assert await scene.find(rows[7], of=FIRST) is None, "the first caller does not wait"
    await turns(200)
    assert await scene.find(rows[7], of=FIRST) == digest(7)
    assert scene.store.calls.count("list_rows") == 1


async def test_the_feed_tells_of_others_rows_only(scene: Scene) -> None:
    await scene.load(of=FIRST)
    rows = some(3)
    feed = scene.store.feed()
    await anext(feed)
    await scene.put(1, rows[1], of=FIRST)
    await scene.put(2, rows[2], of=SECOND)
    for _ in range(2):
        scene.partitions.row_stored(await anext(feed))  # type: ignore[arg-type]  # both are rows
    await turns()
    assert await scene.find(rows[1], of=FIRST) == digest(1)
    assert len(scene.partitions) == 1, "a partition that is not used here is not loaded"
    asked = len(scene.store.asked)
    await feed.aclose()
    feed = scene.store.feed()
    await anext(feed)
    row = (await scene.store.data.read_rows(FIRST.key, [digest(1)]))[0]
    await scene.store.put_row(FIRST.key, row)
    scene.partitions.row_stored(await anext(feed))  # type: ignore[arg-type]
    await turns()
    assert len(scene.store.asked) == asked, "the row is our own"
    await feed.aclose()


async def test_what_was_missed_is_fetched_when_the_feed_is_back(scene: Scene) -> None:
    rows = some(30)
    await scene.put_many(rows[:10], of=FIRST)
    await scene.load(of=FIRST)
    await scene.put(20, rows[20], of=FIRST)  # the feed is gone: nobody tells of it
    assert await scene.find(rows[20], of=FIRST) is None
    scene.store.asked.clear()
    scene.partitions.subscribed()
    await turns(200)
    assert await scene.find(rows[20], of=FIRST) == digest(20)
    assert scene.store.asked == [1], "only what is missing is fetched"


async def test_rows_older_than_an_invalidation_of_the_collection_are_left_out(
    scene: Scene,
) -> None:
    rows = some(4)
    await scene.put(0, rows[0], of=FIRST)
    await scene.load(of=FIRST)
    assert await scene.find(rows[0], of=FIRST) == digest(0)
    scene.invalidate(TICK + 1)
    await scene.put(1, rows[1], of=FIRST, tick=TICK + 1)
    assert await scene.find(rows[0], of=FIRST) is None, "at once"
    await turns(200)
    assert await scene.find(rows[0], of=FIRST) is None
    assert await scene.find(rows[1], of=FIRST) == digest(1)
    assert scene.partitions.rows == 1


async def test_a_load_that_an_invalidation_overtakes_brings_nothing_back(scene: Scene) -> None:
    rows = some(2)
    await scene.put(0, rows[0], of=FIRST)
    gate = scene.store.after["read_rows"] = Gate()
    await scene.load(of=FIRST)
    assert gate.waiting == 1
    scene.invalidate(TICK + 1)
    assert await scene.find(rows[0], of=FIRST) is None
    gate.open()
    await turns(200)
    assert (await scene.find(rows[0], of=FIRST), scene.partitions.rows) == (None, 0)


@pytest.mark.parametrize("operation", ["list_rows", "read_rows"])
async def test_a_failed_load_is_tried_again_a_second_later(scene: Scene, operation: str) -> None:
    row = some(1)[0]
    await scene.put(0, row, of=FIRST)
    gate = scene.store.before[operation] = Gate()
    await scene.load(of=FIRST)
    scene.store.down = True
    gate.open()
    await turns(200)
    assert scene.failed == [operation]
    scene.store.down = False
    calls = len(scene.store.calls)
    scene.clock.advance(0.9)
    assert await scene.find(row, of=FIRST) is None
    await turns(200)
    assert len(scene.store.calls) == calls, "not yet"
    scene.clock.advance(0.2)
    await scene.load(of=FIRST)
    assert await scene.find(row, of=FIRST) == digest(0)
    assert scene.failed == [operation]


async def test_what_others_wrote_badly_is_counted_and_the_rest_is_served(scene: Scene) -> None:
    rows = some(3)
    await scene.put(0, rows[0], of=FIRST)
    await scene.put(1, rows[1][:4], of=FIRST)
    await scene.load(of=FIRST)
    assert scene.failed == ["decode"]
    assert await scene.find(rows[0], of=FIRST) == digest(0)


async def test_of_rows_read_together_only_those_that_are_no_unit_vectors_are_dropped(
    scene: Scene,
) -> None:
    rows = some(6).copy()
    rows[1] *= 2
    rows[3][0] = np.nan
    await scene.put_many(rows, of=FIRST)
    await scene.load(of=FIRST)
    assert scene.store.asked == [6], "in one page"
    assert scene.failed == ["decode", "decode"], "each is counted, once"
    assert scene.partitions.rows == 4
    for number in (0, 2, 4, 5):
        assert await scene.find(rows[number], of=FIRST) == digest(number)


async def test_what_a_row_costs_does_not_grow_with_the_number_of_partitions(scene: Scene) -> None:
    """To keep the bounds, the partitions are not added up anew for each row."""
    row = some(1)[0]
    for number in range(20):
        scene.partitions.add(partition(number), digest(number), row, FAR_S)
    scene.partitions._partitions = Unwalked(scene.partitions._partitions)
    scene.partitions.add(partition(3), digest(20), row, FAR_S)
    scene.partitions.drop(partition(3), digest(3))
    assert await scene.find(row, of=partition(3)) == digest(20)
    scene.partitions._partitions = dict(scene.partitions._partitions)
    assert scene.partitions.rows == 20


@given(
    sizes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=30),
    rows_max=st.integers(1, 30),
)
async def test_the_bound_is_kept_exactly_whatever_comes_and_goes(
    sizes: list[tuple[int, int]], rows_max: int
) -> None:
    """Neither one row too many, nor one that leaves although there is room."""
    scene = Scene(rows_max=rows_max)
    row = some(1)[0]
    place = 0
    for name, (which, count) in enumerate(sizes):
        before = scene.partitions.rows
        for _ in range(count):
            scene.partitions.add(partition(which), digest(place), row, FAR_S + place)
            place += 1
        assert scene.partitions.rows == min(rows_max, before + count)
        if name % 3 == 2:
            scene.partitions.drop(partition(which), digest(place - 1))
    await scene.partitions.close()


async def test_a_row_whose_time_is_over_is_neither_found_nor_kept(scene: Scene) -> None:
    rows = some(2)
    scene.partitions.add(FIRST, digest(0), rows[0], 10.0)
    scene.partitions.add(FIRST, digest(1), rows[1], 20.0)
    scene.clock.advance(15.0)
    assert await scene.find(rows[0], of=FIRST) is None
    assert await scene.find(rows[1], of=FIRST) == digest(1)
    assert (scene.partitions.rows, scene.partitions.left_out) == (1, 0)
