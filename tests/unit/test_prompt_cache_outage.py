"""Stores that are away, records that are damaged, and the end."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server import codec
from mge_cache_server.model import HitSource, LeaseEnd, Miss, SetOutcome, SetStatus
from mge_cache_server.store import EVERYTHING
from tests.unit.caches import body_of, lease_of
from tests.unit.pairs import Pair, begin
from tests.unit.scene import Gate, entry_key, make_entry, turns

KEY = entry_key()


async def test_an_outage_is_served_from_memory_and_marked() -> None:
    pair = Pair()
    await pair.connect()
    await pair.cache.set()
    pair.cache.store.down = True
    pair.cache.epochs.lost()
    hit = await pair.cache.get()
    assert not isinstance(hit, Miss)
    assert (hit.source, hit.degraded) == (HitSource.L1, True)
    miss = await pair.cache.get(entry_key(2))
    assert isinstance(miss, Miss)
    assert miss.degraded
    assert miss.lease is not None
    assert pair.cache.layer().errors == {"read_epochs": 1, "lookup": 1}


async def test_an_answer_during_an_outage_is_kept_here() -> None:
    pair = Pair()
    await pair.connect()
    pair.cache.store.down = True
    lease = lease_of(await pair.cache.get())
    follower = begin(pair.cache.get(wait_s=60.0))
    await turns()
    outcome = await pair.cache.set(lease=lease)
    assert outcome == SetOutcome(SetStatus.KEPT_LOCALLY, 100.0, 0.5)
    hit = await follower
    assert not isinstance(hit, Miss)
    assert hit.degraded
    assert body_of(await pair.cache.get()) == b"answer"
    pair.cache.store.down = False
    assert isinstance(await pair.other.get(), Miss)
    assert pair.cache.layer().writes == 1


async def test_an_answer_kept_during_an_outage_ends_with_an_invalidation_elsewhere() -> None:
    pair = Pair()
    await pair.connect()
    pair.cache.store.down = True
    pair.cache.epochs.lost()
    await pair.cache.set(tags=("tag:a",))
    pair.clock.advance(0.01)
    await pair.other.prompts.invalidate("ns", "tag:a")
    assert body_of(await pair.cache.get()) == b"answer"  # nobody can know
    pair.cache.store.down = False
    lease_of(await pair.cache.get())


async def test_a_put_that_fails_gives_the_lease_back() -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    gate = pair.cache.store.before["put"] = Gate()
    storing = begin(pair.cache.set(lease=lease))
    await turns()
    pair.cache.store.down = True
    gate.open()
    await turns()
    pair.cache.store.down = False
    assert (await storing).status is SetStatus.KEPT_LOCALLY
    assert pair.cache.layer().errors["put"] == 1


DAMAGED = {
    "nothing": b"",
    "a byte": b"\x01",
    "cut in the header": codec.encode(make_entry())[:10],
    "cut behind it": codec.encode(make_entry())[:-1],
    "newer": b"\x02" + codec.encode(make_entry())[1:],
    "noise": bytes(range(200)),
}


@pytest.mark.parametrize("record", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("live", [True, False])
async def test_a_damaged_record_is_dropped_and_counted(
    record: bytes,
    live: bool,  # noqa: FBT001
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = Pair()
    if live:
        await pair.connect()
    await pair.data.put(KEY, record, 60.0)
    async with asyncio.timeout(5):
        peeked = await pair.cache.prompts.peek(KEY)
        assert peeked == Miss()
        await pair.data.put(KEY, record, 60.0)
        lease = lease_of(await pair.cache.get())
    assert pair.cache.layer().errors.get("decode", 0) == (2 if record else 0)
    assert len([each for each in caplog.records if each.message == "record dropped"]) == (
        2 if record else 0
    )
    await pair.cache.set(lease=lease)
    assert body_of(await pair.other.get()) == b"answer"


async def test_a_dead_record_makes_way_for_one_lease() -> None:
    pair = Pair()
    await pair.cache.set(tags=("tag:a",))
    await pair.other.prompts.invalidate("ns", "tag:a")
    outcomes = await asyncio.gather(*(each.get() for each in 4 * [pair.cache, pair.other]))
    assert sum(isinstance(each, Miss) and each.lease is not None for each in outcomes) == 1


async def test_namespaces_are_walls() -> None:
    pair = Pair()
    await pair.connect()
    for number, namespace in enumerate(("ns", "ns2")):
        await pair.cache.set(entry_key(1, namespace), bytes([number]), tags=("tag:a",))
    await pair.cache.prompts.invalidate("ns", EVERYTHING)
    await pair.cache.prompts.invalidate("ns", "tag:a")
    for cache in (pair.cache, pair.other):
        assert isinstance(await cache.get(entry_key(1, "ns")), Miss)
        assert body_of(await cache.get(entry_key(1, "ns2"))) == b"\x01"
        assert isinstance(await cache.get(entry_key(1, "ns3")), Miss)
    counts = pair.cache.layer("ns2")
    assert (counts.hits, counts.misses, counts.writes, counts.invalidations) == (1, 0, 1, 0)


async def test_closing_ends_waits_and_gives_leases_back() -> None:
    pair = Pair()
    await pair.connect()
    held = lease_of(await pair.cache.get())
    holding = begin(pair.cache.prompts.leases.hold(held, 60.0))
    follower = begin(pair.cache.get(wait_s=60.0))
    await turns()
    await pair.cache.prompts.close()
    assert await follower == Miss(in_progress=True)
    assert await holding is LeaseEnd.LOST
    lease_of(await pair.other.get())
