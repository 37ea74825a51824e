"""The index's memory: its bounds, who leaves first, what is compacted; and other threads."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mge_cache_server.similarity import SimilarityIndex
from mge_cache_server.similarity_block import BOOKKEEPING_BYTES, Block
from mge_cache_server.similarity_memory import provide, touch
from mge_cache_server.similarity_work import Compaction, Fit, Provision, Rebase
from tests.unit.scene import Clock
from tests.unit.vectors import key_of, upkeep, vectors


def keys(start: int, stop: int) -> list[bytes]:
    return [key_of(number) for number in range(start, stop)]


def test_the_soonest_to_end_leave_first_and_are_counted() -> None:
    index = SimilarityIndex(8, rows_max=10, now=Clock(0.0))
    rows = vectors("random", 20, 8, 1)
    times_s = [float(100 - number) for number in range(10)]
    assert index.extend(keys(0, 10), rows[:10], times_s) == []
    assert index.add(key_of(10), rows[10], expires_s=50.0) == [key_of(9)]
    assert index.add(key_of(11), rows[11], expires_s=99.5) == [key_of(10)]
    assert (index.rows, index.left_out) == (10, 2)


def test_a_row_that_was_hit_stays_longer() -> None:
    index = SimilarityIndex(8, rows_max=3, now=Clock(0.0))
    rows = vectors("random", 5, 8, 1)
    index.extend(keys(0, 3), rows[:3], [1.0, 2.0, 3.0])
    assert index.search(rows[0], 0.99, lambda _: True) is not None
    assert index.add(key_of(3), rows[3], expires_s=4.0) == [key_of(1)]
    assert key_of(0) in index


def test_what_is_replaced_makes_its_own_room() -> None:
    index = SimilarityIndex(8, rows_max=2, now=Clock(0.0))
    rows = vectors("random", 4, 8, 1)
    index.extend(keys(0, 2), rows[:2], [1.0, 2.0])
    assert index.add(key_of(0), rows[2], expires_s=9.0) == []
    found = index.search(rows[2], 0.99, lambda _: True)
    assert found is not None
    assert (found.key, index.rows, index.left_out) == (key_of(0), 2, 0)


def test_more_rows_than_there_is_room_for_are_left_out() -> None:
    index = SimilarityIndex(8, rows_max=5, now=Clock(0.0))
    left = index.extend(keys(0, 8), vectors("random", 8, 8, 1), [1.0] * 8)
    assert (left, index.rows, index.left_out) == (keys(5, 8), 5, 3)
    none = SimilarityIndex(8, bytes_max=10, now=Clock(0.0))
    assert none.add(b"k", vectors("random", 1, 8, 1)[0], expires_s=1.0) == [b"k"]
    assert (none.rows, none.left_out) == (0, 1)


@pytest.mark.parametrize("compact", [False, True])
def test_the_bound_in_bytes_holds(*, compact: bool) -> None:
    index = SimilarityIndex(384, bytes_max=3_000_000, compact=compact, now=Clock(0.0))
    rows = vectors("random", 500, 384, 1)
    for start in range(0, 6000, 500):
        index.extend(keys(start, start + 500), rows, [float(start)] * 500)
        upkeep(index)
    assert index.rows == index.rows_max or index.rows > 0.9 * index.rows_max
    assert index.size_bytes < 1.34 * 3_000_000
    assert index.left_out == 6000 - index.rows


def test_memory_of_a_row() -> None:
    """The targets: a float32 row and a fifth; compact at 60 % of a float32 row or less."""
    rows = vectors("clustered", 2000, 384, 1)
    sizes = []
    for compact in (False, True):
        index = SimilarityIndex(384, compact=compact, now=Clock(0.0))
        index.extend(keys(0, 2000), rows, [1.0] * 2000)
        upkeep(index)
        sizes.append(index.size_bytes / index.rows)
    assert sizes[0] < 1.2 * 4 * 384
    assert sizes[1] < 0.6 * 4 * 384


def test_what_was_removed_is_given_back() -> None:
    index = SimilarityIndex(16, now=Clock(0.0))
    rows = vectors("random", 40_000, 16, 1)
    index.extend(keys(0, 40_000), rows, [1.0] * 40_000)
    upkeep(index)
    full = index.size_bytes
    for key in keys(0, 39_000):
        index.remove(key)
    assert "Compaction" in upkeep(index)
    assert index.size_bytes < full / 20
    for number in (39_000, 39_999):
        found = index.search(rows[number], 0.9999, lambda _: True)
        assert found is not None
        assert found.cosine > 0.999999
    for key in keys(39_000, 40_000):
        index.remove(key)
    upkeep(index)
    assert (index.rows, index.size_bytes) == (0, 0)


def test_what_happens_while_work_is_under_way_is_not_lost() -> None:
    index = SimilarityIndex(24, now=Clock(0.0))
    rows = vectors("random", 3000, 24, 1)
    index.extend(keys(0, 1100), rows[:1100], [1.0] * 1100)
    number, removed = 1100, set()
    kinds = set()
    for _ in range(60):
        work = index.due()
        if work is None:
            for each in range(number - 400, number - 50):
                removed.add(each)
                index.remove(key_of(each))
            continue
        assert index.due() is None, "one at a time"
        kinds.add(type(work))
        index.add(key_of(number), rows[number], expires_s=1.0)
        work.run()
        index.add(key_of(number + 1), rows[number + 1], expires_s=1.0)
        for each in (number, number - 20):
            removed.add(each)
            index.remove(key_of(each))
        number += 2
        index.settle(work)
        for each in (number - 1, number - 2, number - 20, 0):
            found = index.search(rows[each], 0.999999, lambda _: True)
            assert (found is None) == (each in removed)
    assert kinds == {Fit, Rebase, Compaction}


def test_work_that_was_not_run_falls_due_again() -> None:
    index = SimilarityIndex(24, now=Clock(0.0))
    index.extend(keys(0, 1100), vectors("random", 1100, 24, 1), [1.0] * 1100)
    work = index.due()
    assert isinstance(work, Fit)
    index.settle(work)
    assert isinstance(index.due(), Fit)
    with pytest.raises(ValueError, match="under way"):
        index.settle(work)


def test_room_is_made_for_what_is_coming_and_used_when_the_last_block_is_full() -> None:
    index = SimilarityIndex(24, rows_max=4000, now=Clock(0.0))
    rows = vectors("random", 4000, 24, 1)
    assert index.room(255) is None, "a small block is opened at once"
    index.extend(keys(0, 200), rows[:200], [1.0] * 200)
    room = index.room(9000)
    assert room is not None
    index.add(key_of(200), rows[200], expires_s=1.0)
    room.run()
    index.use(room)
    assert index.room(9000) is None, "there is some"
    index.extend(keys(201, 4000), rows[201:], [1.0] * 3799)
    assert [block.capacity for block in index._blocks] == [256, 4000 - 56]
    upkeep(index)
    for number in (0, 200, 255, 256, 3999):
        found = index.search(rows[number], 0.999999, lambda _: True)
        assert found is not None
        assert found.key == key_of(number)


def test_room_that_could_not_be_made_is_done_without() -> None:
    index = SimilarityIndex(8, now=Clock(0.0))
    room = index.room(1000)
    assert room is not None
    index.use(room)  # its run has failed
    index.extend(keys(0, 1000), vectors("random", 1000, 8, 1), [1.0] * 1000)
    assert index.rows == 1000


def test_while_most_rows_are_still_to_come_no_basis_is_fitted_and_then_only_one() -> None:
    index = SimilarityIndex(8, now=Clock(0.0))
    rows = vectors("clustered", 40_000, 8, 1)
    fits = 0
    for start in range(0, 40_000, 1000):
        room = index.room(40_000 - start)
        if room is not None:
            room.run()
            index.use(room)
        index.extend(keys(start, start + 1000), rows[start : start + 1000], [1.0] * 1000)
        while (work := index.due(39_000 - start)) is not None:
            assert start >= 8000, "a basis wants a good sample"
            work.run()
            index.settle(work)
            fits += isinstance(work, Fit)
    assert fits == 1


def test_a_basis_that_no_longer_fits_is_refitted() -> None:
    index = SimilarityIndex(128, now=Clock(0.0))
    random = np.random.default_rng(1)

    def domain(start: int) -> np.ndarray:
        noise = np.zeros((2000, 128))
        noise[:, start : start + 40] = random.standard_normal((2000, 40))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return noise.astype(np.float32)

    index.extend(keys(0, 2000), domain(0), [1.0] * 2000)
    upkeep(index)
    foreign = domain(80)
    index.extend(keys(2000, 4000), foreign, [1.0] * 2000)
    assert "Fit" not in upkeep(index)
    for query in foreign[:64]:
        index.search(query, 0.95, lambda _: True)
    assert upkeep(index)[:2] == ["Fit", "Rebase"]
    for query in foreign[:64]:
        index.search(query, 0.95, lambda _: True)
    assert "Fit" not in upkeep(index)


@pytest.mark.timeout(60)
def test_searches_in_other_threads_see_all_that_stays() -> None:
    """The writer adds, removes, refits and compacts; 500 rows stay, and are always found."""
    index = SimilarityIndex(32, now=Clock(0.0))
    rows = vectors("random", 6000, 32, 1)
    index.extend(keys(0, 500), rows[:500], [1.0] * 500)
    over = threading.Event()

    def search(seed: int) -> int:
        random, count = np.random.default_rng(seed), 0
        while not over.is_set():
            number = int(random.integers(0, 500))
            found = index.search(rows[number], 0.99999, lambda _: True)
            assert found is not None
            assert found.key == key_of(number)
            strange = int(random.integers(500, 6000))
            found = index.search(rows[strange], 0.99999, lambda _: True)
            assert found is None or found.key == key_of(strange)
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search, seed) for seed in range(2)]
        done = set()
        try:
            for _ in range(3):
                for number in range(500, 6000):
                    index.add(key_of(number), rows[number], expires_s=1.0)
                    if number >= 1500:
                        assert index.remove(key_of(number - 1000))
                    if number % 200 == 0 and (work := index.due()) is not None:
                        pool.submit(work.run).result()
                        index.settle(work)
                        done.add(type(work))
                for number in range(5000, 6000):
                    index.remove(key_of(number))
        finally:
            over.set()
        assert all(each.result() > 20 for each in searches)
    assert done == {Fit, Rebase, Compaction}
    assert index.rows == 500


def test_the_bookkeeping_takes_what_is_counted_for_it() -> None:
    """Of a block at a usual fill; a dict that has just grown takes a third more."""
    block = Block(np.empty((65_536, 1), np.float32), None)
    rows = np.ones((65_536, 1), np.float32)
    block.append(keys(0, 65_536), rows, np.ones(65_536))
    parts, listed = block._parts, block.keys
    times = block.expires_s.nbytes + block.alive.nbytes + block.hit.nbytes
    taken = sys.getsizeof(parts) + sys.getsizeof(listed) + times
    assert taken < 1.1 * BOOKKEEPING_BYTES * block.used
    assert max(parts.values()) < 256, "larger integers have memory of their own"


def test_memory_is_provided_before_rows_need_it() -> None:
    """And what is written meanwhile stays."""
    index = SimilarityIndex(512, now=Clock(0.0))
    rows = vectors("random", 4000, 512, 1)
    index.extend(keys(0, 2000), rows[:2000], [1.0] * 2000)
    assert "Provision" in upkeep(index)
    block = index._blocks[-1]
    assert block.used < block.provided <= block.capacity
    number = 2000
    while (work := index.due()) is None:
        index.add(key_of(number), rows[number], expires_s=1.0)
        number += 1
    assert isinstance(work, Provision)
    assert block.used < block.provided, "before it is too late"
    index.add(key_of(number), rows[number], expires_s=1.0)
    work.run()
    index.settle(work)
    for each in (0, 1499, number - 1, number):
        found = index.search(rows[each], 0.9999, lambda _: True)
        assert found is not None
        assert found.key == key_of(each)


def test_memory_is_provided_without_being_written_to() -> None:
    memory = np.arange(1 << 20, dtype=np.float64)
    provide(memory[3:-3])
    provide(memory[:0])
    assert (memory == np.arange(1 << 20)).all()
    touch(memory)
    assert not memory[0]
