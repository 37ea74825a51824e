"""Deferred batches while the store, Anthropic or the sender is away."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.errors import (
    AnswerTimeoutError,
    DefectError,
    StoreUnavailableError,
    UpstreamUnavailableError,
)
from mge_cache_server.store_deferred import StoredBatch
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
    assert at.one.counts.models["m"].cost_usd == COST_USD


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
    await at.data.deferred.put_batch(
        "n", StoredBatch(b"\x02{}", "b1"), ttl_s=HOUR_S, holder=b"h", claim_s=1.0
    )
    at.other.deferred.start()
    await passes(60.0)
    assert at.other.errors()["decode"] >= 1
    assert await at.data.deferred.list_batches() == ["n"]
    assert len(at.other.batches) == 0


@scene
async def test_a_defect_leaves_nothing_behind(at: Scene) -> None:
    slots = [await at.one.slot(1)]
    at.anthropic.defect = ValueError("ours")
    with pytest.raises(ValueError, match="ours"):
        await at.one.deferred.send(slots)
    await turns()
    assert isinstance(failure_of(slots[0]), DefectError)
    assert await at.data.deferred.list_batches() == []
    assert (await at.data.lookup(entry_key(), THEIRS)).granted
