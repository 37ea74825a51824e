"""The contract of ``Store``'s rows, over every implementation and server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache_server.model import EntryKey
from mge_cache_server.store import Row, RowStored
from tests.store.listener import listening
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache_server.store import Store

PARTITION = EntryKey("ns", bytes(range(32, 64)))
OTHERS = [
    EntryKey("other", PARTITION.digest),
    EntryKey("ns", bytes(32)),
]


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def make_row(number: int = 1, content: bytes = b"content", ttl_s: float = 60.0) -> Row:
    return Row(digest(number), content, ttl_s)


async def listed(store: Store, partition: EntryKey = PARTITION) -> dict[bytes, float]:
    """Read all pages."""
    found: dict[bytes, float] = {}
    cursor = 0
    while True:
        page = await store.list_rows(partition, cursor)
        found.update(page.remaining_s)
        cursor = page.cursor
        if not cursor:
            return found


async def test_a_partition_without_rows_is_empty(store: Store) -> None:
    assert await listed(store) == {}
    assert await store.read_rows(PARTITION, [digest(1)]) == []
    assert await store.read_rows(PARTITION, []) == []


async def test_a_row_is_found_by_every_sidecar(store: Store, other: Store) -> None:
    content = bytes(range(256)) * 24
    await store.put_row(PARTITION, make_row(content=content))
    for each in (store, other):
        [left_s] = (await listed(each)).values()
        assert 50.0 < left_s <= 60.0
        [row] = await each.read_rows(PARTITION, [digest(2), digest(1)])
        assert (row.digest, row.content) == (digest(1), content)
        assert 50.0 < row.remaining_s <= 60.0


@pytest.mark.parametrize("elsewhere", OTHERS, ids=["namespace", "partition"])
async def test_rows_do_not_cross_partitions(store: Store, elsewhere: EntryKey) -> None:
    await store.put_row(PARTITION, make_row())
    assert await listed(store, elsewhere) == {}
    assert await store.read_rows(elsewhere, [digest(1)]) == []


async def test_a_later_row_takes_the_place_of_an_earlier_one(store: Store, other: Store) -> None:
    await store.put_row(PARTITION, make_row(content=b"first", ttl_s=5.0))
    await other.put_row(PARTITION, make_row(content=b"second"))
    [row] = await store.read_rows(PARTITION, [digest(1)])
    assert row.content == b"second"
    assert 50.0 < row.remaining_s <= 60.0


async def test_a_row_expires_and_others_stay(store: Store, other: Store) -> None:
    await store.put_row(PARTITION, make_row(1))
    await store.put_row(PARTITION, make_row(2, ttl_s=0.03))

    async def expired() -> bool:
        return list(await listed(other)) == [digest(1)]

    await eventually(expired)
    [row] = await other.read_rows(PARTITION, [digest(1), digest(2)])
    assert row.digest == digest(1)
    await store.put_row(PARTITION, make_row(3))  # and takes what is over out
    assert set(await listed(other)) == {digest(1), digest(3)}


async def test_a_large_partition_is_listed_in_full(store: Store) -> None:
    digests = {digest(number) for number in range(2500)}
    for each in digests:
        await store.put_row(PARTITION, Row(each, b"", 60.0))
    assert set(await listed(store)) == digests


async def test_a_row_is_reported_with_its_writer(store: Store, other: Store) -> None:
    async with listening(other) as listener:
        await store.put_row(PARTITION, make_row(7))
        expected = RowStored(PARTITION, digest(7), store.writer)
        await eventually(lambda: expected in listener.events)
    assert store.writer != other.writer
