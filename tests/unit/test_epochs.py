"""What a sidecar knows of the invalidation clock, and when that is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.epochs import UNKNOWN, NamespaceEpochs
from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.store import EVERYTHING, Invalidated
from tests.unit.watch import TIMEOUT_S, Watch


async def test_nothing_is_known_at_first() -> None:
    watch = Watch()
    known = watch.epochs.of("ns")
    assert (known.clock, known.epochs) == (UNKNOWN, {})
    assert not watch.epochs.is_current(known)
    assert not watch.epochs.live
    assert len(watch.epochs) == 1
    assert "ns" in watch.epochs
    assert "other" not in watch.epochs
    assert watch.epochs.of("ns") is known


async def test_a_namespace_is_current_once_it_was_read_under_a_live_feed() -> None:
    watch = Watch()
    known = await watch.connect()
    assert watch.epochs.live
    assert watch.epochs.is_current(known)
    assert not watch.epochs.is_current(watch.epochs.of("ns2"))


async def test_what_was_read_without_a_feed_is_not_current() -> None:
    watch = Watch()
    known = await watch.epochs.refresh("ns")
    assert known.clock != UNKNOWN
    assert not watch.epochs.is_current(known)
    # Something may have happened between the reading and the connection.
    watch.epochs.subscribed()
    assert not watch.epochs.is_current(known)
    await watch.epochs.resync()
    assert watch.epochs.is_current(known)


async def test_silence_ends_currency_and_a_sign_of_life_brings_it_back() -> None:
    watch = Watch()
    known = await watch.connect()
    watch.clock.advance(TIMEOUT_S - 0.01)
    assert watch.epochs.is_current(known)
    watch.clock.advance(0.01)
    assert not watch.epochs.live
    assert not watch.epochs.is_current(known)
    watch.epochs.heard()  # the connection held: nothing can have been missed
    assert watch.epochs.is_current(known)


async def test_a_lost_feed_ends_currency_until_all_was_read_again() -> None:
    watch = Watch()
    known = await watch.connect()
    watch.epochs.lost()
    assert not watch.epochs.live
    assert not watch.epochs.is_current(known)
    watch.epochs.subscribed()
    assert (watch.epochs.live, watch.epochs.is_current(known)) == (True, False)
    await watch.epochs.refresh("ns")
    assert watch.epochs.is_current(known)


async def test_resync_reads_every_namespace_and_only_what_is_new() -> None:
    watch = Watch()
    known = await watch.connect()
    other = await watch.epochs.refresh("ns2")
    watch.epochs.lost()
    event = await watch.invalidate("tag:a")
    watch.epochs.subscribed()
    await watch.epochs.resync()
    assert watch.epochs.is_current(known)
    assert watch.epochs.is_current(other)
    assert (known.clock, known.epochs["tag:a"]) == (event.tick, event.tick)
    assert "tag:a" not in other.epochs


async def test_an_event_moves_the_clock() -> None:
    watch = Watch()
    known = await watch.connect()
    before = known.clock
    event = await watch.invalidate("tag:a")
    watch.epochs.apply(event)
    assert watch.reads() == 1
    assert (known.clock, known.announced) == (event.tick, event.tick)
    assert watch.epochs.is_current(known)
    assert not known.admits(before, ("tag:a",))
    assert known.admits(before, ("tag:b",))
    assert known.admits(event.tick, ("tag:a",))


async def test_events_of_unknown_namespaces_are_nobodys_business() -> None:
    watch = Watch()
    await watch.connect()
    watch.epochs.apply(await watch.invalidate("tag:a", "elsewhere"))
    assert "elsewhere" not in watch.epochs


async def test_an_event_that_is_known_already_changes_nothing() -> None:
    watch = Watch()
    await watch.connect()
    event = await watch.invalidate("tag:a")
    known = await watch.epochs.refresh("ns")
    watch.epochs.apply(event)
    assert (known.clock, known.announced) == (event.tick, UNKNOWN)
    assert watch.epochs.is_current(known)


async def test_a_gap_in_the_feed_ends_currency_until_it_is_read() -> None:
    watch = Watch()
    known = await watch.connect()
    before = known.clock
    missed = await watch.invalidate("tag:a")
    event = await watch.invalidate("tag:b")
    watch.epochs.apply(event)
    assert not known.admits(before, ("tag:b",))  # what it told counts at once
    assert known.clock == before
    assert not watch.epochs.is_current(known)
    await watch.epochs.refresh("ns")
    assert watch.epochs.is_current(known)
    assert known.epochs["tag:a"] == missed.tick


async def test_a_gap_is_closed_by_the_events_that_were_missing() -> None:
    # Our own invalidation is known before the feed tells of the one that came before it.
    watch = Watch()
    known = await watch.connect()
    theirs = await watch.invalidate("tag:a")
    tick = await watch.epochs.advance("ns", "tag:b")
    assert not watch.epochs.is_current(known)
    watch.epochs.apply(theirs)
    assert known.clock == theirs.tick
    assert not watch.epochs.is_current(known)
    watch.epochs.apply(Invalidated("ns", theirs.tick, tick, ("tag:b",)))
    assert known.clock == tick
    assert watch.epochs.is_current(known)
    assert watch.reads() == 1


async def test_one_own_invalidation_needs_no_feed_to_count() -> None:
    watch = Watch()
    known = await watch.connect()
    before = known.clock
    watch.clock.advance(0.001)
    tick = await watch.epochs.advance("ns", "tag:a")
    assert watch.epochs.is_current(known)
    assert known.clock == tick > before
    assert not known.admits(before, ("tag:a",))


async def test_an_invalidation_makes_its_namespace_known() -> None:
    watch = Watch()
    tick = await watch.epochs.advance("new", "tag:a")
    known = watch.epochs.of("new")
    assert known.epochs == {"tag:a": tick, EVERYTHING: tick}
    assert known.clock == tick  # the table is new: there is nothing else to know
    assert not watch.epochs.is_current(known)


async def test_a_clock_that_was_lost_invalidates_everything() -> None:
    watch = Watch()
    known = await watch.connect()
    before = known.clock
    watch.clock.advance(1.0)
    watch.epochs.heard()
    watch.epochs.apply(Invalidated("ns", 0, before + 10, ("tag:a",)))
    assert not known.admits(before, ())
    assert known.admits(before + 10, ("tag:a",))


async def test_a_failed_invalidation_changes_nothing() -> None:
    watch = Watch()
    known = await watch.connect()
    before = (known.clock, dict(known.epochs))
    watch.store.down = True
    with pytest.raises(StoreUnavailableError):
        await watch.epochs.advance("ns", "tag:a")
    with pytest.raises(StoreUnavailableError):
        await watch.epochs.refresh("ns")
    assert (known.clock, known.epochs) == before
    assert watch.epochs.is_current(known)  # the feed is another matter


def test_everything_is_a_tag_of_every_entry() -> None:
    known = NamespaceEpochs()
    known.merge([(EVERYTHING, 10)], 10**9)
    assert not known.admits(9, ())
    assert known.admits(10, ())


def test_merging_never_takes_a_later_epoch_back() -> None:
    known = NamespaceEpochs()
    known.merge([("tag:a", 10), ("tag:a", 5)], 10**9)
    known.merge([("tag:a", 7), ("tag:b", 1)], 10**9)
    assert known.epochs == {"tag:a": 10, "tag:b": 1}


@given(
    epochs=st.dictionaries(st.sampled_from("abcd*"), st.integers(0, 20)),
    tick=st.integers(0, 20),
    tags=st.sets(st.sampled_from("abcd")),
)
def test_an_entry_is_valid_unless_an_epoch_of_its_tags_is_later(
    epochs: dict[str, int], tick: int, tags: set[str]
) -> None:
    known = NamespaceEpochs()
    known.merge(epochs.items(), 10**9)
    later = {tag for tag, epoch in epochs.items() if epoch > tick}
    assert known.admits(tick, tags) == later.isdisjoint(tags | {EVERYTHING})


def test_epochs_older_than_any_entry_are_forgotten_and_no_others() -> None:
    known = NamespaceEpochs()
    retention_us = 10_000
    for tick in range(50_000):
        known.clock = tick
        known.merge([(f"tag:{tick}", tick)], retention_us)
    assert len(known.epochs) < 3 * retention_us
    kept = range(49_999 - retention_us, 50_000)
    assert all(known.epochs.get(f"tag:{tick}") == tick for tick in kept)


def test_a_busy_namespace_is_not_pruned_again_and_again() -> None:
    class Counting(dict[str, int]):
        walks = 0

        def items(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            Counting.walks += 1
            return super().items()

    known = NamespaceEpochs()
    known.clock = 1
    for number in range(20_000):  # none of them old
        if not isinstance(known.epochs, Counting):
            known.epochs = Counting(known.epochs)
        known.merge([(f"tag:{number}", 1)], 10**9)
    assert len(known.epochs) == 20_000
    assert Counting.walks < 10
