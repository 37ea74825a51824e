"""Deferred batches over hours: polls, claims, leases, fetches."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.errors import (
    AnswerTimeoutError,
    UnknownRequestError,
    UpstreamUnavailableError,
)
from tests.unit.deferred_desk import (
    COST_USD,
    HOUR_S,
    POLL_S,
    THEIRS,
    Scene,
    failure_of,
    passes,
    refused,
    scene,
    stored,
)
from tests.unit.scene import entry_key, turns
from tests.unit.virtual_time import now


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


@scene
async def test_what_those_wanted_who_have_left(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    slot.tags["late"] = None
    at.one.tickets.open(slot, "late id")
    slot.answer.cancel()
    await passes(10.0)
    at.anthropic.end()
    await passes(POLL_S)
    assert (await at.other.tickets.fetch("ns", "late id", 0.0)).text.startswith("to ")
    await at.other.cache.prompts.invalidate("ns", "late")
    gone = await refused(at.other.tickets.fetch("ns", "late id", 0.0))
    assert type(gone) is UnknownRequestError


@scene
async def test_a_sidecar_that_lost_its_claim_delivers_all_the_same(at: Scene) -> None:
    [slot] = await at.one.ask(1)
    [name] = await at.data.deferred.list_batches()
    await at.data.deferred.release_batch(name, holder=at.one.batches.holder)
    at.other.deferred.start()
    await turns()
    assert name in at.other.batches
    await passes(HOUR_S)
    # Only one of them asks.
    assert HOUR_S / POLL_S <= at.anthropic.polls <= HOUR_S / POLL_S + 1
    at.anthropic.end()
    await passes(2 * POLL_S)
    assert slot.answer.result().text.startswith("to ")
    assert await at.data.deferred.list_batches() == []


@scene
async def test_who_leaves_in_the_last_moment_is_not_sent(at: Scene) -> None:
    staying, leaving = await at.one.slot(1), await at.one.slot(2)
    leaving.answer.cancel()
    await at.one.deferred.send([leaving])
    assert at.anthropic.sent == {}
    await at.one.deferred.send([staying, leaving])
    assert [len(each) for each in at.anthropic.sent.values()] == [1]
    # Its lease is its leader's to give back.
    assert not leaving.entrusted_to
