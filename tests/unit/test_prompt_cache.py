"""A look-up's way through memory and store, and what becomes of answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import pytest

from mge_cache_server import codec
from mge_cache_server.errors import InvalidRequestError, StoreUnavailableError
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import HitSource, Lease, LeaseEnd, Miss, SetOutcome, SetStatus
from mge_cache_server.store import EVERYTHING
from tests.unit.caches import Cache, body_of, lease_of, make_policy
from tests.unit.scene import Clock, Gate, StageStore, entry_key, make_entry, turns

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mge_cache_server.prompt_cache import CachePolicy

T = TypeVar("T")

KEY = entry_key()
LOOKUP = ["lookup"]


class Pair:
    """Two sidecars on one store."""

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self.clock = Clock()
        self.data = MemoryStore(now=self.clock)
        self.cache = Cache(StageStore(self.data), self.clock, policy=policy)
        self.other = Cache(StageStore(self.data.sibling()), self.clock, policy=policy)

    async def connect(self) -> None:
        for each in (self.cache, self.other):
            each.epochs.of("ns")
            await each.connect()
            each.store.calls.clear()


def begin(coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(coroutine)


async def test_from_miss_to_hits() -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    pair.clock.advance(0.5)
    outcome = await pair.cache.set(tags=("tag:a",), lease=lease)
    assert outcome == SetOutcome(SetStatus.STORED, 100.0, 0.5)
    pair.clock.advance(0.25)
    hit = await pair.cache.get()
    assert not isinstance(hit, Miss)
    assert (hit.source, hit.degraded, hit.remaining_s) == (HitSource.L1, False, 99.75)
    assert hit.entry.created_ms == round((pair.clock() - 0.25) * 1000)
    theirs = await pair.other.get()
    assert not isinstance(theirs, Miss)
    assert (theirs.source, theirs.entry) == (HitSource.STORE, hit.entry)
    again = await pair.other.get()
    assert not isinstance(again, Miss)
    assert again.source is HitSource.L1


async def test_how_often_the_store_is_asked() -> None:
    pair = Pair()
    await pair.connect()
    calls = pair.cache.store.calls
    lease = lease_of(await pair.cache.get())
    assert calls == ["lookup", "read_epochs"]  # the lease is dated by the store's clock
    calls.clear()
    await pair.cache.set(lease=lease)
    assert calls == ["read_epochs", "put"]
    calls.clear()
    await pair.cache.get()
    assert calls == []
    await pair.other.get()
    assert pair.other.store.calls == LOOKUP
    # Without a feed, the epochs are asked for beside each look-up.
    pair.cache.epochs.lost()
    await pair.cache.get()
    assert calls == ["read_epochs"]


async def test_each_outcome_is_counted_once() -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    assert await pair.cache.get() == Miss(in_progress=True)
    assert await pair.cache.get(asks_again=True) == Miss(in_progress=True)
    await pair.cache.set(lease=lease, cost_usd=0.25)
    await pair.cache.get()
    await pair.cache.prompts.peek(KEY)  # somebody looks, nobody asks
    await pair.cache.prompts.peek(entry_key(2))
    counts = pair.cache.layer()
    assert (counts.hits, counts.misses, counts.writes, counts.invalidations) == (1, 2, 1, 0)
    assert (counts.spent_usd, counts.saved_usd, counts.saved_s) == (0.25, 0.25, 1.5)
    assert pair.cache.layer("ns2").misses == 0
    assert pair.other.layer().hits == 0


async def test_asking_again_counts_a_lease_and_a_hit() -> None:
    pair = Pair()
    lease_of(await pair.cache.get(asks_again=True))
    await pair.cache.set()
    await pair.cache.get(asks_again=True)
    assert (pair.cache.layer().hits, pair.cache.layer().misses) == (1, 1)


async def test_what_was_not_bought_here_or_has_no_price() -> None:
    pair = Pair()
    await pair.cache.set(cost_usd=2.0, bought=False)
    await pair.cache.set(entry_key(2), cost_usd=0.0, priced=False)
    counts = pair.cache.layer()
    assert (counts.spent_usd, counts.writes, counts.unpriced_writes) == (0.0, 2, 1)
    assert pair.cache.counts.unpriced_models == ("m",)
    await pair.cache.get()
    assert pair.cache.layer().saved_usd == 2.0


async def test_a_peek_takes_no_lease() -> None:
    pair = Pair()
    assert await pair.cache.prompts.peek(KEY) == Miss()
    lease = lease_of(await pair.other.get())
    assert await pair.cache.prompts.peek(KEY) == Miss(in_progress=True)
    await pair.other.set(lease=lease)
    assert body_of(await pair.cache.prompts.peek(KEY)) == b"answer"
    pair.cache.store.down = True
    assert await pair.cache.prompts.peek(entry_key(2)) == Miss(degraded=True)


@pytest.mark.parametrize("ttl_s", [0.0, 7.0])
async def test_times_to_live(ttl_s: float) -> None:
    pair = Pair(make_policy(namespace_ttl_s={"short": 10.0}))
    for namespace, default_s in (("ns", 100.0), ("short", 10.0)):
        key = entry_key(1, namespace)
        outcome = await pair.cache.set(key, ttl_s=ttl_s)
        assert outcome.ttl_s == (ttl_s or default_s)
        for cache in (pair.cache, pair.other):
            hit = await cache.get(key)
            assert not isinstance(hit, Miss)
            assert hit.remaining_s == outcome.ttl_s


async def test_memory_and_store_end_together_and_hits_do_not_extend() -> None:
    pair = Pair()
    await pair.connect()
    await pair.cache.set(ttl_s=10.0)
    pair.clock.advance(4.0)
    assert body_of(await pair.other.get()) == b"answer"
    for _ in range(9):
        pair.clock.advance(0.625)
        for cache in (pair.cache, pair.other):
            cache.epochs.heard()
            assert body_of(await cache.get()) == b"answer"
    pair.clock.advance(0.375)
    for cache in (pair.cache, pair.other):
        cache.epochs.heard()
        assert isinstance(await cache.get(), Miss)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_slow_store_does_not_lengthen_a_life_in_memory(where: str) -> None:
    # The record's time began when the store took it, at the earliest when it was sent.
    pair = Pair()
    gate = Gate()
    getattr(pair.cache.store, where)["put"] = gate
    storing = begin(pair.cache.set(ttl_s=10.0))
    await turns()
    pair.clock.advance(3.0)
    gate.open()
    await storing
    resident = pair.cache.l1.get(KEY)
    assert resident is not None
    assert pair.cache.l1.remaining_s(resident) <= (await pair.data.lookup(KEY)).remaining_s

    gate = Gate()
    getattr(pair.other.store, where)["lookup"] = gate
    reading = begin(pair.other.get())
    await turns()
    pair.clock.advance(3.0)
    gate.open()
    await reading
    resident = pair.other.l1.get(KEY)
    assert resident is not None
    assert pair.other.l1.remaining_s(resident) <= (await pair.data.lookup(KEY)).remaining_s


async def test_jitter_spreads_the_ends() -> None:
    pair = Pair(make_policy(ttl_jitter=0.05))
    given = [(await pair.cache.set(entry_key(n))).ttl_s for n in range(500)]
    assert all(95.0 <= ttl_s <= 105.0 for ttl_s in given)
    assert min(given) < 96.0 < 104.0 < max(given)
    longest = [(await pair.cache.set(entry_key(n), ttl_s=1000.0)).ttl_s for n in range(50)]
    assert max(longest) == 1000.0  # the operator's maximum is one


async def test_without_jitter_the_time_is_what_was_asked_for() -> None:
    pair = Pair()
    assert {(await pair.cache.set(entry_key(n))).ttl_s for n in range(20)} == {100.0}


async def test_a_cache_that_is_off_does_nothing() -> None:
    pair = Pair(make_policy(enabled=False))
    assert await pair.cache.get() == Miss()
    assert await pair.cache.prompts.peek(KEY) == Miss()
    assert await pair.cache.set() == SetOutcome(SetStatus.DISABLED, 0.0, 0.5)
    assert pair.cache.store.calls == []
    counts = pair.cache.layer()
    assert (counts.misses, counts.writes, counts.spent_usd) == (1, 0, 0.0)


async def test_the_number_of_namespaces_is_bounded() -> None:
    pair = Pair(make_policy(namespaces_max=2))
    for number in (1, 2):
        await pair.cache.get(entry_key(1, f"ns{number}"))
    one_more = entry_key(1, "ns3")
    for refused in (
        pair.cache.get(one_more),
        pair.cache.prompts.peek(one_more),
        pair.cache.set(one_more),
        pair.cache.prompts.invalidate("ns3", EVERYTHING),
    ):
        with pytest.raises(InvalidRequestError, match="namespaces_max"):
            await refused
    await pair.cache.get(entry_key(1, "ns2"))
    assert pair.cache.layer("ns3").misses == 0


@pytest.mark.parametrize("live", [True, False])
async def test_an_invalidation_ends_an_entry_here_and_there(live: bool) -> None:  # noqa: FBT001
    pair = Pair()
    if live:
        await pair.connect()
    await pair.cache.set(tags=("tag:a",))
    for cache in (pair.cache, pair.other):
        assert body_of(await cache.get()) == b"answer"
    pair.clock.advance(0.01)
    event = await pair.data.advance("ns", ("tag:b",))
    event_a = await pair.other.store.data.advance("ns", ("tag:a",))
    if live:
        for cache in (pair.cache, pair.other):
            cache.epochs.apply(event)
            cache.epochs.apply(event_a)
    lease_of(await pair.cache.get())
    assert isinstance(await pair.other.get(), Miss)
    assert (await pair.data.lookup(KEY)).record is None


async def test_an_invalidation_of_something_else_is_looked_at_once() -> None:
    pair = Pair()
    await pair.connect()
    await pair.cache.set(tags=("tag:a",))
    pair.clock.advance(0.01)
    await pair.cache.prompts.invalidate("ns", "tag:b")
    resident = pair.cache.l1.get(KEY)
    assert resident is not None
    assert resident.clock < pair.cache.epochs.of("ns").clock
    assert body_of(await pair.cache.get()) == b"answer"
    assert resident.clock == pair.cache.epochs.of("ns").clock


async def test_invalidations_are_counted_if_they_were_done() -> None:
    pair = Pair()
    tick = await pair.cache.prompts.invalidate("ns", "tag:a")
    assert tick == (await pair.data.read_epochs("ns", -1)).clock
    pair.cache.store.down = True
    with pytest.raises(StoreUnavailableError):
        await pair.cache.prompts.invalidate("ns", "tag:a")
    counts = pair.cache.layer()
    assert (counts.invalidations, counts.errors) == (1, {"advance": 1})


@pytest.mark.parametrize("tag", ["tag:a", EVERYTHING])
async def test_a_fill_that_was_overtaken_is_not_stored(tag: str) -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    pair.clock.advance(0.01)
    await pair.other.prompts.invalidate("ns", tag)  # the feed has not told yet
    outcome = await pair.cache.set(tags=("tag:a",), lease=lease)
    assert outcome == SetOutcome(SetStatus.OVERTAKEN, 0.0, 0.5)
    await turns()
    assert lease_of(await pair.other.get())  # nothing is there, and the lease is free
    assert pair.cache.l1.entries == 0
    counts = pair.cache.layer()
    assert (counts.writes, counts.spent_usd) == (0, 0.5)  # it was bought all the same


async def test_a_fill_without_a_lease_begins_when_it_is_stored() -> None:
    pair = Pair()
    await pair.cache.prompts.invalidate("ns", "tag:a")
    assert (await pair.cache.set(tags=("tag:a",))).status is SetStatus.STORED
    assert body_of(await pair.cache.get()) == b"answer"


async def test_a_lease_cannot_claim_a_later_beginning() -> None:
    pair = Pair()
    await pair.connect()
    pretended = Lease(KEY, b"p" * 16, 2**60, 60.0)
    await pair.cache.set(tags=("tag:a",), lease=pretended)
    pair.clock.advance(0.01)
    await pair.cache.prompts.invalidate("ns", "tag:a")
    assert isinstance(await pair.cache.get(), Miss)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("by", ["here", "there, told", "there, not told"])
async def test_an_invalidation_while_the_answer_is_being_stored(by: str, where: str) -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    holding = begin(pair.cache.prompts.leases.hold(lease, 60.0))
    follower = begin(pair.cache.get(wait_s=60.0))
    await turns()
    gate = Gate()
    getattr(pair.cache.store, where)["put"] = gate
    storing = begin(pair.cache.set(tags=("tag:a",), lease=lease))
    await turns()
    assert gate.waiting == 1
    pair.clock.advance(0.01)
    if by == "here":
        await pair.cache.prompts.invalidate("ns", "tag:a")
    else:
        event = await pair.data.advance("ns", ("tag:a",))
        if by == "there, told":
            pair.cache.epochs.apply(event)
    del getattr(pair.cache.store, where)["put"]
    gate.open()
    outcome = await storing
    assert await holding is LeaseEnd.FULFILLED
    if by == "there, not told":
        assert outcome.status is SetStatus.STORED
        assert body_of(await follower) == b"answer"
        pair.cache.epochs.apply(event)
    else:
        assert outcome.status is SetStatus.OVERTAKEN
        assert lease_of(await follower)
    for cache in (pair.cache, pair.other):
        cache.epochs.lost()
        assert isinstance(await cache.get(), Miss)


async def test_who_waits_without_a_feed_asks_the_store_itself() -> None:
    # What was invalidated while the answer was on its way, nobody has told: a look-up that began
    # after that must not get it.
    pair = Pair()
    lease = lease_of(await pair.cache.get())
    gate = pair.cache.store.after["put"] = Gate()
    storing = begin(pair.cache.set(tags=("tag:a",), lease=lease))
    await turns()
    pair.clock.advance(0.01)
    await pair.other.prompts.invalidate("ns", "tag:a")
    follower = begin(pair.cache.get(wait_s=60.0))
    other = lease_of(await pair.other.get())
    await turns()
    gate.open()
    await storing
    await turns()
    assert not follower.done()
    await pair.cache.set(body=b"new", tags=("tag:a",), lease=other)
    assert body_of(await follower) == b"new"


async def test_a_follower_gets_what_is_stored_here() -> None:
    pair = Pair()
    await pair.connect()
    lease = lease_of(await pair.cache.get())
    followers = [begin(pair.cache.get(wait_s=60.0)) for _ in range(3)]
    await turns()
    await pair.cache.set(lease=lease)
    for follower in followers:
        hit = await follower
        assert not isinstance(hit, Miss)
        assert hit.source is HitSource.FLIGHT
        assert hit.remaining_s == 100.0
    counts = pair.cache.layer()
    assert (counts.hits, counts.misses) == (3, 1)


async def test_a_follower_of_another_sidecar_gets_it_by_the_feed() -> None:
    pair = Pair()
    await pair.connect()
    pair.other.feed.start()
    lease = lease_of(await pair.cache.get())
    follower = begin(pair.other.get(wait_s=60.0))
    await turns()
    await pair.cache.set(lease=lease)
    hit = await follower
    assert not isinstance(hit, Miss)
    assert hit.source is HitSource.FLIGHT
    await pair.other.feed.stop()


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
