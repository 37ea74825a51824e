"""Deferred batches over hours: polls, claims, leases, and a store or an Anthropic that is away."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.errors import (
    AnswerTimeoutError,
    AskError,
    StoreUnavailableError,
    UnknownRequestError,
    UpstreamUnavailableError,
)
from mge_cache_server.store import LeaseOffer
from tests.unit.deferred_desk import COST_USD, POLL_S, Scene
from tests.unit.scene import entry_key, turns
from tests.unit.virtual_time import now, virtual_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from mge_cache_server.slots import Slot

HOUR_S = 3600.0
THEIRS = LeaseOffer(b"t" * 16, 60.0)


def scene(test: Callable[[Scene], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run a test in virtual time, on a scene that is closed after it."""

    @virtual_time
    async def run() -> None:
        made = Scene()
        try:
            await test(made)
        finally:
            await made.close()

    def named() -> None:
        run()

    functools.update_wrapper(named, test)
    del named.__wrapped__  # type: ignore[attr-defined] # pytest would look for fixtures
    return named


async def passes(seconds: float) -> None:
    await asyncio.sleep(seconds)
    await turns()


async def stored(at: Scene, number: int = 1) -> bool:
    return (await at.data.lookup(entry_key(number))).record is not None


async def refused(waiting: Awaitable[object]) -> AskError:
    with pytest.raises(AskError) as caught:
        await waiting
    return caught.value


def failure_of(slot: Slot) -> BaseException | None:
    return slot.answer.exception()


@scene
async def test_a_batch_is_asked_for_at_each_interval(at: Scene) -> None:
    slots = await at.one.ask(1, 2)
    await passes(10.5 * POLL_S)
    assert at.anthropic.polls == 10
    assert at.one.batches.requests == 2
    at.anthropic.end()
    await passes(POLL_S)
    assert [slot.answer.result().batch_size for slot in slots] == [2, 2]
    assert slots[0].answer.result().cost_usd == COST_USD
    assert await stored(at, 1)
    assert await stored(at, 2)
    assert await at.data.deferred.list_batches() == []
    assert (at.one.batches.requests, len(at.one.batches)) == (0, 0)
    assert at.one.cache.layer().spent_usd == 2 * COST_USD
    assert at.one.errors() == {}


@scene
async def test_entries_stay_reserved_for_hours(at: Scene) -> None:
    await at.one.ask(1)
    for _ in range(10):
        await passes(HOUR_S)
        assert not (await at.data.lookup(entry_key(), THEIRS)).granted
    await at.one.die()
    await passes(1100.0)
    assert not (await at.data.lookup(entry_key(), THEIRS)).granted
    await passes(800.0)
    assert (await at.data.lookup(entry_key(), THEIRS)).granted


@scene
async def test_one_sidecar_at_a_time_and_then_the_next(at: Scene) -> None:
    at.other.deferred.start()
    await at.one.ask(1)
    await passes(HOUR_S)
    assert at.anthropic.polls == HOUR_S / POLL_S
    assert len(at.other.batches) == 0
    await at.one.die()
    died_s, polls = now(), at.anthropic.polls
    while at.anthropic.polls == polls:
        await passes(1.0)
    # Its claim of 30 s has to end first.
    assert 19.0 <= now() - died_s <= 41.0
    at.anthropic.end()
    await passes(POLL_S)
    assert await stored(at)
    found = await at.other.tickets.fetch("ns", "id 1", 0.0)
    assert found.text.startswith("to ")
    assert at.other.cache.layer().spent_usd == COST_USD


@scene
async def test_a_sidecar_that_stops_hands_over_at_once(at: Scene) -> None:
    at.other.deferred.start()
    [slot] = await at.one.ask(1)
    await passes(1.0)
    await at.one.deferred.stop()
    assert isinstance(failure_of(slot), UpstreamUnavailableError)
    assert "fetch the answer later" in str(failure_of(slot))
    await passes(10.0)
    assert len(at.other.batches) == 1


@scene
async def test_an_answer_is_delivered_though_nobody_waits(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    slot.answer.cancel()
    at.anthropic.end()
    await passes(POLL_S)
    assert await stored(at)


@scene
async def test_a_store_that_is_away_when_the_batch_is_sent(at: Scene) -> None:
    slots = [await at.one.slot(1)]
    await turns()
    at.one.store.down = True
    await at.one.deferred.send(slots)
    await passes(HOUR_S)
    assert at.one.errors()["put_batch"] >= 2
    with pytest.raises(StoreUnavailableError):
        await at.one.tickets.fetch("ns", "id 1", 0.0)
    at.one.store.down = False
    await passes(10.0)
    # It is kept from now on.
    [name] = await at.data.deferred.list_batches()
    kept = await at.data.deferred.read_batch(name)
    assert kept is not None
    assert kept.batch_id == "b1"
    at.anthropic.end()
    await passes(POLL_S)
    assert slots[0].answer.result().text.startswith("to ")
    assert await at.data.deferred.list_batches() == []


@scene
async def test_a_store_that_never_comes_back(at: Scene) -> None:
    slots = [await at.one.slot(1)]
    await turns()
    at.one.store.down = True
    await at.one.deferred.send(slots)
    at.anthropic.end()
    await passes(POLL_S)
    assert slots[0].answer.result().text.startswith("to ")
    at.one.store.down = False


@scene
async def test_a_store_that_is_away_when_the_results_come(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    at.one.store.down = True
    at.anthropic.end()
    await passes(POLL_S)
    assert slot.answer.result().text.startswith("to ")
    assert not await stored(at)
    await passes(HOUR_S)
    at.one.store.down = False
    await passes(POLL_S)
    assert await stored(at)
    assert await at.data.deferred.list_batches() == []
    assert at.one.cache.layer().spent_usd == COST_USD


@scene
async def test_a_store_that_lost_everything_gets_it_again(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    [name] = await at.data.deferred.list_batches()
    await at.data.deferred.end_batch(name)
    await passes(POLL_S)
    assert await at.data.deferred.list_batches() == [name]
    at.anthropic.end()
    await passes(POLL_S)
    assert slot.answer.result().text.startswith("to ")


@scene
async def test_an_anthropic_that_is_away_for_hours(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    at.anthropic.down = True
    await passes(20 * HOUR_S)
    assert not slot.answer.done()
    assert (await refused(at.one.tickets.fetch("ns", "id 1", 0.0))).__class__ is AnswerTimeoutError
    at.anthropic.down = False
    at.anthropic.end()
    await passes(POLL_S)
    assert await stored(at)


@scene
async def test_after_two_days_it_is_given_up(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    await passes(47 * HOUR_S)
    assert not slot.answer.done()
    await passes(1.1 * HOUR_S)
    assert isinstance(failure_of(slot), UpstreamUnavailableError)
    assert len(at.one.batches) == 0
    assert (await at.data.lookup(entry_key(), THEIRS)).granted


@scene
async def test_failures_can_be_fetched_for_a_day(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    at.anthropic.fail(UpstreamUnavailableError("not today"))
    await passes(POLL_S)
    assert str(failure_of(slot)) == "not today"
    await passes(23 * HOUR_S)
    again = await refused(at.other.tickets.fetch("ns", "id 1", 0.0))
    assert (type(again), str(again)) == (UpstreamUnavailableError, "not today")
    await passes(HOUR_S)
    gone = await refused(at.other.tickets.fetch("ns", "id 1", 0.0))
    assert type(gone) is UnknownRequestError


@scene
async def test_a_fetch_waits_as_long_as_it_may(at: Scene) -> None:
    await at.one.ask(1)
    began_s = now()
    late = await refused(at.other.tickets.fetch("ns", "id 1", 100.0))
    assert type(late) is AnswerTimeoutError
    assert now() - began_s == pytest.approx(100.0)
    fetching = asyncio.ensure_future(at.other.tickets.fetch("ns", "id 1", HOUR_S))
    at.anthropic.end()
    await passes(POLL_S + 5.0)
    assert (await fetching).text.startswith("to ")


@scene
async def test_a_fetch_without_a_store_says_so(at: Scene) -> None:
    await at.one.ask(1)
    at.other.store.down = True
    with pytest.raises(StoreUnavailableError):
        await at.other.tickets.fetch("ns", "id 1", 0.0)


@scene
async def test_a_batch_whose_sender_died_is_found(at: Scene) -> None:
    at.anthropic.dies_after_sending = True
    sending = asyncio.ensure_future(at.one.ask(1, 2))
    await turns()
    assert list(at.anthropic.sent) == ["b1"]
    await at.one.die()
    sending.cancel()
    at.anthropic.dies_after_sending = False
    # Of the same size, by somebody else; and one of another size.
    await at.anthropic.take(["x", "y"])
    await at.anthropic.take(["z"])
    at.other.deferred.start()
    at.anthropic.end("b2")
    await passes(HOUR_S)
    assert at.other.batches.requests == 2
    at.anthropic.end("b1")
    await passes(2 * POLL_S)
    assert await stored(at, 1)
    assert await stored(at, 2)
    assert await at.data.deferred.list_batches() == []


@scene
async def test_a_batch_that_never_got_there_is_refused(at: Scene) -> None:
    at.anthropic.dies_after_sending = True
    sending = asyncio.ensure_future(at.one.ask(1))
    await turns()
    await at.one.die()
    sending.cancel()
    at.anthropic.sent.clear()
    await passes(60.0)
    at.other.deferred.start()
    await passes(POLL_S)
    lost = await refused(at.other.tickets.fetch("ns", "id 1", 0.0))
    assert (type(lost), "ask again" in str(lost)) == (UpstreamUnavailableError, True)
    assert (await at.data.lookup(entry_key(), THEIRS)).granted


@scene
async def test_what_a_newer_sidecar_wrote_is_left_to_it(at: Scene) -> None:
    from mge_cache_server.store_deferred import StoredBatch

    await at.data.deferred.put_batch(
        "n", StoredBatch(b"\x02{}", "b1"), ttl_s=HOUR_S, holder=b"h", claim_s=1.0
    )
    at.other.deferred.start()
    await passes(60.0)
    assert at.other.errors()["decode"] >= 1
    assert await at.data.deferred.list_batches() == ["n"]
    assert len(at.other.batches) == 0


@scene
async def test_an_invalidation_while_the_batch_is_under_way(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    await at.other.cache.prompts.invalidate("ns", "t")
    at.anthropic.end()
    await passes(POLL_S)
    assert slot.answer.result().text.startswith("to ")
    assert not await stored(at)
    overtaken = await refused(at.other.tickets.fetch("ns", "id 1", 0.0))
    assert type(overtaken) is UnknownRequestError
    assert (await at.data.lookup(entry_key(), THEIRS)).granted
