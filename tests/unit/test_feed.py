"""Following the store's feed: what each event does, and what its loss does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mge_cache_server.epochs import Epochs
from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.feed import Feed
from mge_cache_server.flights import Flights, Held
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.store import Alive, FeedEvent, Settled, Subscribed
from tests.unit.scene import Clock, StageStore, entry_key, turns
from tests.unit.virtual_time import now, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    import pytest

    from mge_cache_server.model import Entry, EntryKey
    from mge_cache_server.store import LeaseOffer

KEY = entry_key()


class PipedStore(StageStore):
    """A store whose feed is what the test puts into a pipe. An error in the pipe breaks it."""

    def __init__(self) -> None:
        self.wall = Clock()
        super().__init__(MemoryStore(now=self.wall))
        self.pipe: asyncio.Queue[FeedEvent | Exception | None] = asyncio.Queue()
        self.connections = 0
        self.closed = 0

    async def feed(self) -> AsyncGenerator[FeedEvent, None]:
        if self.down:
            raise StoreUnavailableError("cut")
        self.connections += 1
        try:
            while (event := await self.pipe.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1


class Desk:
    def __init__(self) -> None:
        self.store = PipedStore()
        self.epochs = Epochs(
            self.store, retention_s=100.0, timeout_s=1.0, on_regress=lambda _: None, now=now
        )
        self.probes = 0
        self.flights: Flights[Entry] = Flights(
            self._probe, release=lambda _: None, local_tick=lambda _: 0, now=now
        )
        self.failures = 0
        self.feed = Feed(self.store, self.epochs, self.flights, failed=self._failed)

    async def say(self, event: FeedEvent | Exception | None) -> None:
        self.store.pipe.put_nowait(event)
        await turns()

    async def _probe(self, key: EntryKey, offer: LeaseOffer) -> Held:
        del key, offer
        self.probes += 1
        return Held(60.0)

    def _failed(self) -> None:
        self.failures += 1


@asynccontextmanager
async def following() -> AsyncIterator[Desk]:
    desk = Desk()
    desk.feed.start()
    await turns()
    try:
        yield desk
    finally:
        await desk.feed.stop()
        assert desk.store.closed == desk.store.connections


@virtual_time
async def test_the_feed_is_live_from_its_subscription_on() -> None:
    async with following() as desk:
        assert desk.store.connections == 1
        assert not desk.epochs.live
        await desk.say(Subscribed())
        assert desk.epochs.live


@virtual_time
async def test_all_known_namespaces_are_read_at_each_subscription() -> None:
    async with following() as desk:
        first, second = desk.epochs.of("ns"), desk.epochs.of("ns2")
        await desk.say(Subscribed())
        assert desk.epochs.is_current(first)
        assert desk.epochs.is_current(second)
        assert desk.store.calls == 2 * ["read_epochs"]


@virtual_time
async def test_an_invalidation_is_taken_over() -> None:
    async with following() as desk:
        known = desk.epochs.of("ns")
        await desk.say(Subscribed())
        desk.store.wall.advance(1.0)
        event = await desk.store.data.advance("ns", ("tag:a",))
        await desk.say(event)
        assert known.epochs["tag:a"] == event.tick


@virtual_time
async def test_a_settled_lease_wakes_who_waits() -> None:
    async with following() as desk:
        waiting = asyncio.get_running_loop().create_task(
            desk.flights.join(KEY, wait_s=60.0, lease_ttl_s=60.0)
        )
        await turns()
        assert desk.probes == 1
        await desk.say(Settled(entry_key(2)))
        assert desk.probes == 1
        await desk.say(Settled(KEY))
        assert desk.probes == 2
        waiting.cancel()
        await turns()


@virtual_time
async def test_any_event_is_a_sign_of_life() -> None:
    async with following() as desk:
        await desk.say(Subscribed())
        for event in (Alive(), Settled(KEY), Alive()):
            await asyncio.sleep(0.9)
            await desk.say(event)
        await asyncio.sleep(0.9)
        assert desk.epochs.live
        await asyncio.sleep(0.1)
        assert not desk.epochs.live


@virtual_time
async def test_a_lost_feed_is_taken_up_again_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mge_cache_server.feed")
    async with following() as desk:
        known = desk.epochs.of("ns")
        await desk.say(Subscribed())
        await desk.say(StoreUnavailableError("reset"))
        assert not desk.epochs.live
        assert desk.failures == 1
        desk.store.down = True
        await asyncio.sleep(2.0)
        assert desk.failures == 1
        desk.store.down = False
        await asyncio.sleep(0.5)
        assert desk.store.connections == 2
        assert not desk.epochs.live
        await desk.say(Subscribed())
        assert desk.epochs.is_current(known)
    messages = [record.message for record in caplog.records]
    assert messages == [
        "feed of invalidations lost",
        "feed of invalidations connected again",
    ]


@virtual_time
async def test_a_feed_that_ends_is_taken_up_again_within_half_a_second() -> None:
    async with following() as desk:
        await desk.say(Subscribed())
        await desk.say(None)
        assert not desk.epochs.live
        assert desk.store.connections == 1
        await asyncio.sleep(0.5)
        assert desk.store.connections == 2


@virtual_time
async def test_a_subscription_after_which_the_store_cannot_be_read_is_begun_again() -> None:
    async with following() as desk:
        known = desk.epochs.of("ns")
        desk.store.down = True
        await desk.say(Subscribed())
        assert not desk.epochs.live
        assert desk.failures == 1
        desk.store.down = False
        await asyncio.sleep(0.5)
        await desk.say(Subscribed())
        assert desk.epochs.is_current(known)


@virtual_time
async def test_a_feed_that_was_never_started_can_be_stopped() -> None:
    desk = Desk()
    await desk.feed.stop()
    assert desk.store.connections == 0


@virtual_time
async def test_a_defect_ends_the_feed_audibly(caplog: pytest.LogCaptureFixture) -> None:
    async with following() as desk:
        await desk.say(Subscribed())
        await desk.say(RuntimeError("a defect"))
        assert not desk.epochs.live
    assert [record.message for record in caplog.records] == ["feed of invalidations has failed"]
