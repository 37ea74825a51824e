"""The contract of ``Store``'s records, over every implementation and server."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.model import EntryKey
from mge_cache_server.store import LeaseOffer, Lookup
from tests.store.examples import GRANTED, HEADER, KEY, NOTHING, OURS, RECORD
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache_server.store import Store

BINARY = {
    "one zero byte": b"\0",
    "every byte": bytes(range(256)),
    "line ends": b"\r\n$-1\r\n\n\r",
    "not UTF-8": b"\xff\xfe\xc3\x28",
    "8 MiB": random.Random(1).randbytes(8 * 1024 * 1024),
}


async def test_nothing_is_found_where_nothing_was_put(store: Store) -> None:
    assert await store.lookup(KEY) == NOTHING
    assert store.available


async def test_a_record_is_found_by_every_sidecar(store: Store, other: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    for each in (store, other):
        found = await each.lookup(KEY)
        assert found.record == RECORD
        assert not found.granted


async def test_a_record_is_found_instead_of_a_lease(store: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    found = await store.lookup(KEY, OURS)
    assert (found.record, found.granted) == (RECORD, False)
    assert await store.lookup(KEY, reject=HEADER) == NOTHING  # and no lease was taken


@pytest.mark.parametrize("record", BINARY.values(), ids=BINARY.keys())
async def test_records_come_back_byte_for_byte(store: Store, record: bytes) -> None:
    await store.put(KEY, record, 60.0)
    # Not `==` in the assertion: a failure would spend minutes on a diff of 8 MiB.
    same = (await store.lookup(KEY)).record == record
    assert same


async def test_a_later_record_takes_the_place_of_an_earlier_one(store: Store, other: Store) -> None:
    await store.put(KEY, b"first", 5.0)
    await other.put(KEY, b"second", 60.0)
    found = await store.lookup(KEY)
    assert found.record == b"second"
    assert 50.0 < found.remaining_s <= 60.0


async def test_the_store_tells_the_time_to_live(store: Store, other: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    first = await other.lookup(KEY)
    assert 50.0 < first.remaining_s <= 60.0

    async def shorter() -> bool:  # look-ups do not extend it
        return (await store.lookup(KEY)).remaining_s < first.remaining_s

    await eventually(shorter)


async def test_a_record_expires(store: Store, other: Store) -> None:
    await store.put(KEY, RECORD, 0.03)
    await eventually(lambda: _is(other, NOTHING))
    assert await store.lookup(KEY, OURS) == GRANTED


async def _is(store: Store, expected: Lookup) -> bool:
    return await store.lookup(KEY) == expected


async def test_keys_and_namespaces_do_not_mix(store: Store) -> None:
    elsewhere = [
        EntryKey("n", KEY.digest),
        EntryKey("ns2", KEY.digest),
        EntryKey("NS", KEY.digest),
        EntryKey("ns", KEY.digest[::-1]),
    ]
    await store.put(KEY, RECORD, 60.0)
    for key in elsewhere:
        assert await store.lookup(key, OURS) == GRANTED
    other_key = EntryKey("ns.2", KEY.digest)
    assert await store.lookup(other_key, reject=HEADER) == NOTHING
    assert (await store.lookup(KEY)).record == RECORD


async def test_a_rejected_record_is_dropped_and_the_lease_granted_at_once(
    store: Store, other: Store
) -> None:
    await store.put(KEY, RECORD, 60.0)
    assert await store.lookup(KEY, OURS, HEADER) == GRANTED
    seen = await other.lookup(KEY)
    assert (seen.record, seen.granted) == (None, False)
    assert seen.remaining_s > 50.0


async def test_a_record_is_rejected_without_an_offer_too(store: Store, other: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    assert await store.lookup(KEY, reject=RECORD) == NOTHING
    assert await other.lookup(KEY) == NOTHING


@pytest.mark.parametrize(
    "reject",
    [b"", b"\x02header", HEADER[1:], HEADER + b".", RECORD + b"!"],
    ids=["nothing", "another", "its middle", "longer header", "longer than the record"],
)
async def test_a_record_is_kept_unless_it_begins_with_what_is_rejected(
    store: Store, reject: bytes
) -> None:
    await store.put(KEY, RECORD, 60.0)
    assert (await store.lookup(KEY, OURS, reject)).record == RECORD
    assert (await store.lookup(KEY)).record == RECORD


async def test_of_many_who_reject_a_record_one_gets_the_lease(store: Store, other: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    stores = (store, other)
    found = await asyncio.gather(
        *(
            stores[number % 2].lookup(KEY, LeaseOffer(number.to_bytes(16), 60.0), HEADER)
            for number in range(40)
        )
    )
    assert sum(each.granted for each in found) == 1
    assert all(each.record is None for each in found)


async def test_scan_yields_the_records_of_one_namespace(store: Store, other: Store) -> None:
    expected = {number.to_bytes(32): f"record {number}".encode() for number in range(50)}
    for digest, record in expected.items():
        await store.put(EntryKey("scanned", digest), record, 60.0)
    for namespace in ("scanned2", "scanne", "2.scanned"):
        await store.put(EntryKey(namespace, KEY.digest), RECORD, 60.0)
    await store.put(EntryKey("scanned", b"\xff" * 32), RECORD, 0.02)
    await store.lookup(EntryKey("scanned", b"\xfe" * 32), OURS)  # a lease is no record
    await store.advance("scanned", ["tag:x"])

    async def everything_but_the_expired() -> dict[bytes, tuple[bytes, float]]:
        found = {digest: (record, left_s) async for digest, record, left_s in other.scan("scanned")}
        return {} if b"\xff" * 32 in found else found

    found = await eventually(everything_but_the_expired)
    assert {digest: record for digest, (record, _) in found.items()} == expected
    assert all(50.0 < left_s <= 60.0 for _, left_s in found.values())


async def test_scan_of_an_empty_namespace_yields_nothing(store: Store) -> None:
    await store.put(KEY, RECORD, 60.0)
    assert [found async for found in store.scan("empty")] == []
