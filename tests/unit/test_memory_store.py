"""What only the store in memory has; the contract that it shares is in tests/store."""

from __future__ import annotations

from itertools import pairwise

from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.store import EVERYTHING, Alive, EpochTable, LeaseOffer, Lookup, Subscribed
from tests.unit.scene import START_S, Clock, entry_key
from tests.unit.virtual_time import now, virtual_time

KEY = entry_key()
OURS = LeaseOffer(b"o" * 16, 10.0)
THEIRS = LeaseOffer(b"t" * 16, 10.0)


async def test_a_record_lives_exactly_as_long_as_it_was_given() -> None:
    clock = Clock()
    store = MemoryStore(now=clock)
    await store.put(KEY, b"record", 10.0)
    clock.advance(9.5)
    assert await store.lookup(KEY) == Lookup(b"record", 0.5, granted=False)
    clock.advance(0.5)
    assert await store.lookup(KEY) == Lookup(None, 0.0, granted=False)


async def test_a_lease_lives_exactly_as_long_as_it_was_given() -> None:
    clock = Clock()
    store = MemoryStore(now=clock)
    assert (await store.lookup(KEY, OURS)).granted
    clock.advance(9.5)
    assert await store.lookup(KEY, THEIRS) == Lookup(None, 0.5, granted=False)
    clock.advance(0.5)
    assert (await store.lookup(KEY, THEIRS)).granted


async def test_siblings_share_everything() -> None:
    clock = Clock()
    store = MemoryStore(now=clock, retention_s=7.0, alive_s=3.0)
    other = store.sibling()
    await store.put(KEY, b"record", 10.0)
    assert (await other.lookup(KEY)).record == b"record"
    await store.put(entry_key(2), b"record", 10.0)
    assert [digest async for digest, _, _ in other.scan("ns")] == [KEY.digest, entry_key(2).digest]
    assert (other._retention_s, other._alive_s) == (7.0, 3.0)


async def test_a_scan_leaves_out_what_expired_and_other_namespaces() -> None:
    clock = Clock()
    store = MemoryStore(now=clock)
    await store.put(entry_key(1), b"1", 5.0)
    await store.put(entry_key(2), b"2", 15.0)
    await store.put(entry_key(3, "ns2"), b"3", 15.0)
    clock.advance(5.0)
    found = [each async for each in store.scan("ns")]
    assert found == [(entry_key(2).digest, b"2", 10.0)]


async def test_expired_records_leave_as_fast_as_new_ones_come() -> None:
    clock = Clock()
    store = MemoryStore(now=clock)
    for number in range(1000):
        await store.put(entry_key(number), b"record", 1.0)
    clock.advance(1.0)
    for number in range(1000, 1300):
        await store.put(entry_key(number), b"record", 1.0)
    assert len(store._data.records) == 300


async def test_ticks_are_microseconds_and_increase_even_if_the_clock_does_not() -> None:
    clock = Clock()
    store = MemoryStore(now=clock)
    ticks = [(await store.read_epochs("ns", -1)).clock]
    assert ticks == [round(START_S * 1e6)]
    for step in (0.0, 0.0, -5.0, 1.0):
        clock.advance(step)
        ticks.append((await store.advance("ns", ("tag:a",))).tick)
    assert all(later > earlier for earlier, later in pairwise(ticks))
    clock.advance(10.0)
    assert (await store.advance("ns", ())).tick == round(clock() * 1e6)


async def test_epochs_are_forgotten_after_the_retention() -> None:
    clock = Clock()
    store = MemoryStore(now=clock, retention_s=10.0)
    await store.read_epochs("ns", -1)
    clock.advance(1.0)
    first = await store.advance("ns", ("tag:a",))
    clock.advance(10.0)
    second = await store.advance("ns", ("tag:b",))
    assert await store.read_epochs("ns", -1) == EpochTable(
        second.tick, {"tag:a": first.tick, "tag:b": second.tick}
    )
    clock.advance(0.001)
    third = await store.advance("ns", (EVERYTHING,))
    assert await store.read_epochs("ns", -1) == EpochTable(
        third.tick, {"tag:b": second.tick, EVERYTHING: third.tick}
    )


@virtual_time
async def test_a_quiet_feed_says_that_it_is_alive() -> None:
    store = MemoryStore(alive_s=0.25)
    feed = store.feed()
    assert await anext(feed) == Subscribed()
    began_s = now()
    assert [await anext(feed) for _ in range(4)] == 4 * [Alive()]
    assert now() - began_s == 1.0
    await feed.aclose()
    await store.advance("ns", ("tag:a",))
    assert store._data.subscribers == set()
