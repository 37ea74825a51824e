"""Reading the clock while the feed goes on, breaks, or the store has forgotten."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.epochs import UNKNOWN, Epochs, NamespaceEpochs
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.store import EVERYTHING
from tests.unit.scene import Gate, StageStore, turns
from tests.unit.watch import RETENTION_S, TIMEOUT_S, Watch

if TYPE_CHECKING:
    from mge_cache_server.store import EpochTable


async def refreshing(watch: Watch, gate: Gate) -> asyncio.Task[NamespaceEpochs]:
    """Begin to refresh, up to where the reply is on its way back."""
    watch.store.after["read_epochs"] = gate
    task = asyncio.get_running_loop().create_task(watch.epochs.refresh("ns"))
    await turns()
    assert gate.waiting == 1
    return task


async def test_an_event_overtakes_the_reply_of_a_refresh() -> None:
    watch = Watch()
    known = await watch.connect()
    gate = Gate()
    task = await refreshing(watch, gate)
    event = await watch.invalidate("tag:a")
    watch.epochs.apply(event)
    gate.open()
    assert await task is known
    assert (known.clock, known.epochs["tag:a"]) == (event.tick, event.tick)
    assert watch.epochs.is_current(known)


async def test_the_reply_of_a_refresh_overtakes_an_event() -> None:
    watch = Watch()
    known = await watch.connect()
    first = await watch.invalidate("tag:a")
    second = await watch.invalidate("tag:b")
    await watch.epochs.refresh("ns")
    watch.epochs.apply(first)
    watch.epochs.apply(second)
    assert known.clock == second.tick
    assert known.epochs["tag:a"] == first.tick
    assert watch.epochs.is_current(known)


async def test_an_event_with_a_gap_overtakes_the_reply_that_fills_it_in_part() -> None:
    watch = Watch()
    known = await watch.connect()
    first = await watch.invalidate("tag:a")
    gate = Gate()
    task = await refreshing(watch, gate)  # has seen the first
    await watch.invalidate("tag:b")
    third = await watch.invalidate("tag:c")
    watch.epochs.apply(third)
    gate.open()
    await task
    assert known.clock == first.tick
    assert not known.admits(first.tick, ("tag:c",))
    assert not watch.epochs.is_current(known)  # the second is still missing
    await watch.epochs.refresh("ns")
    assert watch.epochs.is_current(known)


@pytest.mark.parametrize("reconnects", [False, True])
async def test_a_refresh_during_which_the_feed_was_lost_does_not_count(reconnects: bool) -> None:  # noqa: FBT001
    watch = Watch()
    known = await watch.connect()
    watch.epochs.lost()
    watch.epochs.subscribed()
    gate = Gate()
    task = await refreshing(watch, gate)
    watch.epochs.lost()
    await watch.invalidate("tag:a")  # told to nobody
    if reconnects:
        watch.epochs.subscribed()
    gate.open()
    await task
    assert not watch.epochs.is_current(known)


async def test_a_refresh_that_began_before_the_feed_does_not_count() -> None:
    watch = Watch()
    gate = Gate()
    task = await refreshing(watch, gate)
    await watch.invalidate("tag:a")
    watch.epochs.subscribed()
    gate.open()
    known = await task
    assert not watch.epochs.is_current(known)


class ForgetfulStore(StageStore):
    """Answers with an older clock, as a replica does that took over too early."""

    older: EpochTable | None = None

    async def read_epochs(self, namespace: str, after: int) -> EpochTable:
        newest = await super().read_epochs(namespace, after)
        answer, self.older = self.older or newest, None
        return answer


async def test_a_store_that_forgot_invalidations_costs_the_namespace() -> None:
    watch = Watch()
    data = MemoryStore(now=watch.clock)
    store = ForgetfulStore(data)
    watch.epochs = Epochs(
        store,
        retention_s=RETENTION_S,
        timeout_s=TIMEOUT_S,
        on_regress=watch.regressed.append,
        now=watch.clock,
    )
    known = await watch.connect()
    store.older = await data.read_epochs("ns", UNKNOWN)
    watch.clock.advance(0.001)
    tick = await watch.epochs.advance("ns", "tag:a")
    async with asyncio.timeout(5):
        await watch.epochs.refresh("ns")
    assert watch.regressed == ["ns"]
    assert known.clock > tick
    assert known.epochs == {EVERYTHING: known.clock}
    assert (await data.read_epochs("ns", tick)).epochs == {EVERYTHING: known.clock}
    assert not known.admits(tick, ())
    assert not watch.epochs.is_current(known)
    await watch.epochs.refresh("ns")
    assert watch.epochs.is_current(known)
    assert watch.regressed == ["ns"]
