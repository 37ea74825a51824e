"""The contract of ``Store``'s clock, epochs and feed, over every implementation and server."""

from __future__ import annotations

import asyncio
import gc
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from mge_cache_server.store import EVERYTHING, EpochTable, Invalidated, Subscribed
from tests.store.examples import GRANTED, HEADER, KEY, NOTHING, OURS, RECORD
from tests.store.listener import listening
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.store import Store
    from tests.store.backends import Backend

YEAR_US = 365 * 86400 * 1_000_000


async def test_a_new_clock_invalidates_everything(store: Store, other: Store) -> None:
    table = await store.read_epochs("ns", -1)
    assert table.epochs == {EVERYTHING: table.clock}
    assert abs(table.clock / 1e6 - time.time()) < 60
    assert await other.read_epochs("ns", -1) == table
    assert await other.read_epochs("ns", 0) == table


async def test_a_lost_clock_invalidates_everything(store: Store, backend: Backend) -> None:
    await store.read_epochs("ns", -1)
    before = await store.advance("ns", ["tag:a"])
    await backend.lose_clock("ns")
    table = await store.read_epochs("ns", before.tick)
    assert table.clock > before.tick
    assert table.epochs == {EVERYTHING: table.clock}


async def test_an_advance_without_a_clock_invalidates_everything(
    store: Store, other: Store
) -> None:
    event = await store.advance("ns", ["tag:a"])
    assert event.previous == 0
    table = await other.read_epochs("ns", -1)
    assert table == EpochTable(event.tick, {EVERYTHING: event.tick, "tag:a": event.tick})


async def test_an_advance_says_what_it_did(store: Store, other: Store) -> None:
    clock = (await store.read_epochs("ns", -1)).clock
    first = await store.advance("ns", ["tag:a", "tag:b"])
    assert first == Invalidated("ns", clock, first.tick, ("tag:a", "tag:b"))
    assert first.tick > clock
    second = await other.advance("ns", ["tag:b"])
    assert second.previous == first.tick
    assert second.tick > first.tick
    assert await store.read_epochs("ns", -1) == EpochTable(
        second.tick, {EVERYTHING: clock, "tag:a": first.tick, "tag:b": second.tick}
    )


async def test_an_advance_passes_a_given_tick(store: Store, other: Store) -> None:
    clock = (await store.read_epochs("ns", -1)).clock
    after = clock + 60_000_000
    assert (await store.advance("ns", [EVERYTHING], after=after)).tick == after + 1
    assert (await other.advance("ns", ["tag:a"])).tick == after + 2


async def test_read_epochs_gives_only_what_is_later(store: Store) -> None:
    clock = (await store.read_epochs("ns", -1)).clock
    first = await store.advance("ns", ["tag:a"])
    second = await store.advance("ns", ["tag:b"])
    assert (await store.read_epochs("ns", clock)).epochs == {
        "tag:a": first.tick,
        "tag:b": second.tick,
    }
    assert (await store.read_epochs("ns", first.tick)).epochs == {"tag:b": second.tick}
    assert await store.read_epochs("ns", second.tick) == EpochTable(second.tick, {})


async def test_everything_can_be_invalidated(store: Store) -> None:
    clock = (await store.read_epochs("ns", -1)).clock
    event = await store.advance("ns", [EVERYTHING])
    assert (await store.read_epochs("ns", clock)).epochs == {EVERYTHING: event.tick}


async def test_tags_of_any_text_come_back(store: Store, other: Store) -> None:
    tags = ("tag:two words", "tag:\u00e4\u4e2d\U0001f600", "masterplan:a:b*c[d]", "tag:!", "tag:*")
    await store.read_epochs("ns", -1)
    async with listening(other) as listener:
        event = await store.advance("ns", tags)
        await eventually(lambda: listener.invalidations)
        assert listener.invalidations == [event]
    table = await other.read_epochs("ns", event.previous)
    assert table.epochs == dict.fromkeys(tags, event.tick)


async def test_the_clock_never_repeats_a_tick(store: Store, other: Store) -> None:
    await store.read_epochs("ns", -1)
    stores = (store, other)
    events = await asyncio.gather(
        *(stores[number % 2].advance("ns", [f"tag:{number}"]) for number in range(60))
    )
    in_order = sorted(events, key=lambda event: event.tick)
    assert all(later.previous == earlier.tick for earlier, later in pairwise(in_order))
    assert all(later.tick > earlier.tick for earlier, later in pairwise(in_order))


async def test_every_sidecar_hears_of_an_advance(
    store: Store, other: Store, open_store: Callable[[], Store]
) -> None:
    third = open_store()
    await third.start()
    async with listening(store) as a, listening(other) as b, listening(third) as c:
        first = await store.advance("ns", ["tag:a", "tag:b"])
        second = await other.advance("ns", ["tag:c"])
        everybody = (a, b, c)
        await eventually(lambda: all(len(each.invalidations) == 2 for each in everybody))
        assert [each.invalidations for each in everybody] == 3 * [[first, second]]


async def test_namespaces_have_clocks_and_epochs_of_their_own(store: Store, other: Store) -> None:
    ours = await store.read_epochs("ns", -1)
    theirs = await store.read_epochs("ns2", -1)
    async with listening(other) as listener:
        event = await store.advance("ns", ["tag:a"])
        assert await store.read_epochs("ns2", -1) == theirs
        elsewhere = await store.advance("ns2", ["tag:b"])
        assert elsewhere.previous == theirs.clock
        await eventually(lambda: len(listener.invalidations) == 2)
        assert {each.namespace: each for each in listener.invalidations} == {
            "ns": event,
            "ns2": elsewhere,
        }
    assert (await store.read_epochs("ns", ours.clock)).epochs == {"tag:a": event.tick}


async def test_old_epochs_are_pruned(store: Store, backend: Backend) -> None:
    clock = (await store.read_epochs("ns", -1)).clock
    await backend.plant_epoch("ns", "tag:old", clock - YEAR_US)
    await backend.plant_epoch("ns", "tag:recent", clock - 1)
    assert (await store.read_epochs("ns", -1)).epochs["tag:old"] == clock - YEAR_US
    event = await store.advance("ns", ["tag:new"])
    assert (await store.read_epochs("ns", -1)).epochs == {
        EVERYTHING: clock,
        "tag:recent": clock - 1,
        "tag:new": event.tick,
    }


async def test_a_feed_begins_with_subscribed(store: Store) -> None:
    async with listening(store) as listener:
        assert listener.events[0] == Subscribed()


async def test_the_first_calls_may_come_all_at_once(store: Store) -> None:
    # Of a store that has not connected yet: each is done once, and none of them fails.
    events = await asyncio.gather(*(store.advance("ns", [f"tag:{n}"]) for n in range(60)))
    in_order = sorted(events, key=lambda event: event.tick)
    assert in_order[0].previous == 0
    assert all(later.previous == earlier.tick for earlier, later in pairwise(in_order))


async def test_a_quiet_feed_shows_that_it_is_alive(backend: Backend) -> None:
    store = backend.store(feed_timeout_s=1.0)
    await store.start()
    async with listening(store) as listener:
        since_s = time.monotonic()
        await eventually(lambda: listener.alive >= 2)
        # Neither sign of life came later than the time after which a feed counts as lost.
        assert time.monotonic() - since_s < 2.0
        assert listener.events.count(Subscribed()) == 1
    await store.close()


async def test_a_feed_can_be_taken_up_again(store: Store, other: Store) -> None:
    async with listening(store):
        pass
    async with listening(store) as listener:
        event = await other.advance("ns", ["tag:a"])
        await eventually(lambda: listener.invalidations == [event])


async def test_a_closed_store_leaves_nothing_behind(backend: Backend) -> None:
    before = asyncio.all_tasks()
    store = backend.store()
    await store.start()
    await store.read_epochs("ns", -1)
    async with listening(store) as listener:
        event = await store.advance("ns", ["tag:a"])
        await eventually(lambda: listener.invalidations == [event])
    await store.close()
    assert asyncio.all_tasks() == before
    del store
    gc.collect()  # a connection that was left open warns here


async def test_an_unused_store_can_be_closed(backend: Backend) -> None:
    await backend.store().close()


async def test_a_dated_lookup_brings_both(store: Store) -> None:
    found, table = await store.lookup_dated(KEY, OURS, b"", after=-1)
    assert found == GRANTED
    assert table == await store.read_epochs(KEY.namespace, -1)
    await store.put(KEY, RECORD, 60.0, OURS.token)
    event = await store.advance(KEY.namespace, ("tag:a",))
    found, table = await store.lookup_dated(KEY, OURS, b"", after=table.clock)
    assert (found.record, found.granted) == (RECORD, False)
    assert table == EpochTable(event.tick, {"tag:a": event.tick})
    found, _ = await store.lookup_dated(KEY, None, HEADER, after=event.tick)
    assert found == NOTHING
