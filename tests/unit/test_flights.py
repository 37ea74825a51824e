"""Single flight inside a sidecar: who gets the lease, who waits, and who takes over."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.model import Hit, HitSource, Lease, Miss
from tests.unit.caches import lease_of
from tests.unit.scene import entry_key, turns
from tests.unit.tower import FILLED, IN_PROGRESS, KEY, STORED, TICK, Tower, cancel, leaders
from tests.unit.virtual_time import now, virtual_time


@virtual_time
async def test_one_of_many_callers_leads_and_the_others_get_its_answer() -> None:
    tower = Tower()
    tower.runway.clear()
    callers = [tower.join() for _ in range(1000)]
    await turns()
    tower.runway.set()
    await turns()
    assert leaders(callers) == [callers[0]]
    assert sum(caller.done() for caller in callers) == 1
    assert len(tower.offers) == 1
    tower.flights.fulfil(KEY, FILLED)
    assert await asyncio.gather(*callers[1:]) == 999 * [FILLED]
    await turns()
    assert len(tower.flights) == 0
    assert tower.released == []


@virtual_time
async def test_a_lease_is_what_was_offered() -> None:
    tower = Tower()
    outcome = await tower.join(lease_ttl_s=7.0)
    [offer] = tower.offers
    assert outcome == Miss(lease=Lease(KEY, offer.token, TICK, 7.0))
    assert (len(offer.token), offer.ttl_s) == (16, 7.0)


@virtual_time
async def test_every_offer_has_a_token_of_its_own() -> None:
    tower = Tower()
    tower.hold(30.0)
    waiting = tower.join(wait_s=20.0)
    await waiting
    tokens = [offer.token for offer in tower.offers]
    assert len(set(tokens)) == len(tokens) > 10


@virtual_time
async def test_keys_have_flights_of_their_own() -> None:
    tower = Tower()
    tower.hold(60.0)
    first, second = tower.join(), tower.join(key=entry_key(2))
    await turns()
    assert len(tower.flights) == 2
    tower.flights.fulfil(KEY, FILLED)
    assert await first == FILLED
    assert not second.done()
    await cancel(second)


@virtual_time
async def test_a_hit_of_the_store_is_for_all_who_asked() -> None:
    tower = Tower()
    tower.hit = STORED
    tower.runway.clear()
    callers = [tower.join() for _ in range(3)] + [tower.join(wait_s=0.0)]
    await turns()
    tower.runway.set()
    assert await asyncio.gather(*callers) == 4 * [STORED]
    assert len(tower.offers) == 1


@virtual_time
async def test_a_hit_that_was_waited_for_is_said_to_come_from_a_flight() -> None:
    tower = Tower()
    tower.hold(60.0)
    follower = tower.join()
    await turns()
    tower.hit = STORED
    tower.flights.settled(KEY)
    assert await follower == Hit(STORED.entry, HitSource.FLIGHT, 60.0, degraded=False)


@virtual_time
async def test_an_impatient_caller_is_told_that_somebody_computes() -> None:
    tower = Tower()
    leader = tower.join()
    impatient = [tower.join(wait_s=0.0), tower.join(wait_s=0.0)]
    await leader
    assert await asyncio.gather(*impatient) == 2 * [IN_PROGRESS]
    follower = tower.join()  # keeps the flight up
    await turns()
    asked = len(tower.offers)
    assert await tower.join(wait_s=0.0) == IN_PROGRESS
    assert len(tower.offers) == asked
    await cancel(follower)


@virtual_time
async def test_an_impatient_caller_can_lead() -> None:
    tower = Tower()
    impatient, patient = tower.join(wait_s=0.0), tower.join()
    lease_of(await impatient)
    await turns()
    assert not patient.done()
    await cancel(patient)


@virtual_time
async def test_waiting_ends_when_its_time_is_over() -> None:
    tower = Tower()
    tower.hold(60.0)
    began_s = now()
    assert await tower.join(wait_s=2.5) == IN_PROGRESS
    assert now() - began_s == pytest.approx(2.5)
    await turns()
    assert len(tower.flights) == 0


@virtual_time
async def test_each_waits_for_its_own_time() -> None:
    tower = Tower()
    tower.hold(60.0)
    short, long = tower.join(wait_s=1.5), tower.join(wait_s=3.5)
    assert await short == IN_PROGRESS
    assert not long.done()
    tower.flights.fulfil(KEY, FILLED)
    assert await long == FILLED


@pytest.mark.parametrize("answer_first", [True, False])
@virtual_time
async def test_the_answer_lands_in_the_moment_in_which_the_time_is_over(answer_first: bool) -> None:  # noqa: FBT001
    tower = Tower()
    tower.hold(60.0)
    loop = asyncio.get_running_loop()
    due_s = loop.time() + 0.5
    if answer_first:
        loop.call_at(due_s, tower.flights.fulfil, KEY, FILLED)
    follower = tower.join(wait_s=0.5)
    await turns()
    if not answer_first:
        loop.call_at(due_s + 1e-12, tower.flights.fulfil, KEY, FILLED)
    assert await follower == (FILLED if answer_first else IN_PROGRESS)


@virtual_time
async def test_a_lease_that_lands_in_the_last_moment_is_not_lost() -> None:
    tower = Tower()
    tower.runway.clear()
    loop = asyncio.get_running_loop()
    caller = tower.join(wait_s=0.5)
    await turns()
    # In one turn of the loop the probe ends, then the time does.
    loop.call_at(loop.time() + 0.5, tower.runway.set)
    outcome = await caller
    await turns()
    if outcome == IN_PROGRESS:
        assert [lease.token for lease in tower.released] == [tower.offers[0].token]
    else:
        assert lease_of(outcome).token == tower.holder
        assert tower.released == []


@virtual_time
async def test_an_impatient_first_caller_leaves_those_who_wait_in_the_air() -> None:
    tower = Tower()
    tower.hold(5.0)
    tower.runway.clear()
    impatient, patient = tower.join(wait_s=0.0), tower.join(wait_s=20.0)
    await turns()
    tower.runway.set()
    assert await impatient == IN_PROGRESS
    outcome = await patient
    assert isinstance(outcome, Miss)
    assert outcome.lease is not None
