"""A look-up's way through memory and store, and times to live."""

from __future__ import annotations

import pytest

from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.model import HitSource, Miss, SetOutcome, SetStatus
from mge_cache_server.store import EVERYTHING
from tests.unit.caches import body_of, lease_of, make_policy
from tests.unit.pairs import Pair, begin
from tests.unit.scene import Gate, entry_key, turns

KEY = entry_key()
LOOKUP = ["lookup"]


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
    assert counts.computed_s == 1.5
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
    assert min(given) < 96.0
    assert max(given) > 104.0
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


async def test_an_answer_that_is_given_twice_was_paid_once() -> None:
    pair = Pair()
    lease = lease_of(await pair.cache.get())
    for _ in range(2):
        await pair.cache.set(lease=lease, cost_usd=0.25)
    assert (pair.cache.layer().spent_usd, pair.cache.layer().writes) == (0.25, 2)
