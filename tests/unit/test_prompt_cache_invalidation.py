"""Invalidations, and the fills and look-ups that they overtake."""

from __future__ import annotations

import pytest

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.model import HitSource, Lease, LeaseEnd, Miss, SetOutcome, SetStatus
from mge_cache_server.store import EVERYTHING
from tests.unit.caches import body_of, lease_of
from tests.unit.pairs import Pair, begin
from tests.unit.scene import Gate, entry_key, turns

KEY = entry_key()


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
    lease_of(await pair.other.get())  # nothing is there, and the lease is free
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
        lease_of(await follower)
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
