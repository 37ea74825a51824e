"""Flights while the store is down, after a defect, and at the end."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.model import Hit, Lease, Miss
from tests.unit.caches import lease_of
from tests.unit.scene import entry_key, turns
from tests.unit.tower import FILLED, IN_PROGRESS, KEY, LOCAL_TICK, STORED, Tower, leaders
from tests.unit.virtual_time import now, virtual_time


@virtual_time
async def test_while_the_store_is_down_one_caller_leads_by_a_lease_of_this_sidecar() -> None:
    tower = Tower()
    tower.down = True
    callers = [tower.join(lease_ttl_s=9.0) for _ in range(4)]
    impatient = tower.join(wait_s=0.0)
    outcome = await callers[0]
    lease = lease_of(outcome)
    assert outcome == Miss(lease=lease, degraded=True)
    assert (lease.tick, lease.ttl_s) == (LOCAL_TICK, 9.0)
    assert await impatient == Miss(in_progress=True, degraded=True)
    tower.flights.fulfil(KEY, FILLED)
    assert await asyncio.gather(*callers[1:]) == 3 * [FILLED]


@virtual_time
async def test_a_lease_of_this_sidecar_outlasts_its_flight() -> None:
    tower = Tower()
    tower.down = True
    lease_of(await tower.join(lease_ttl_s=9.0))
    await turns()
    assert len(tower.flights) == 0
    assert await tower.join(wait_s=0.0) == Miss(in_progress=True, degraded=True)
    began_s = now()
    lease_of(await tower.join(lease_ttl_s=9.0))  # when the first has expired
    assert now() - began_s == pytest.approx(9.0, abs=0.1)


@virtual_time
async def test_a_lease_of_this_sidecar_is_handed_over_when_it_is_given_back() -> None:
    tower = Tower()
    tower.down = True
    callers = [tower.join() for _ in range(3)]
    began_s = now()
    for number in range(3):
        await turns()
        assert leaders(callers) == callers[: number + 1]
        tower._release(lease_of(callers[number].result()))
    assert now() == began_s


@virtual_time
async def test_only_its_holder_ends_a_lease_of_this_sidecar() -> None:
    tower = Tower()
    tower.down = True
    lease = lease_of(await tower.join())
    tower.flights.end_local(Lease(KEY, b"another", 0, 1.0))
    assert await tower.join(wait_s=0.0) == Miss(in_progress=True, degraded=True)
    tower.flights.end_local(lease)
    assert lease_of(await tower.join(wait_s=0.0)).token != lease.token


@virtual_time
async def test_an_answer_ends_a_lease_of_this_sidecar() -> None:
    tower = Tower()
    tower.down = True
    await tower.join()
    tower.flights.fulfil(KEY, FILLED)
    # The entry has been evicted since, say: the next caller must not wait for nobody.
    lease_of(await tower.join(wait_s=0.0))


@virtual_time
async def test_expired_leases_of_this_sidecar_are_forgotten() -> None:
    tower = Tower()
    tower.down = True
    for number in range(100):
        await tower.join(key=entry_key(number), lease_ttl_s=1.0)
    await asyncio.sleep(1.0)
    for number in range(100, 150):
        await tower.join(key=entry_key(number))
    assert len(tower.flights._local) == 50


@virtual_time
async def test_who_waits_gets_the_stores_answer_once_it_is_back() -> None:
    tower = Tower()
    tower.down = True
    await tower.join()
    follower = tower.join()
    await turns()
    tower.down, tower.hit = False, STORED
    began_s = now()
    assert isinstance(await follower, Hit)
    assert now() - began_s <= 1.01


@virtual_time
async def test_a_defect_reaches_every_caller_and_ends_the_flight() -> None:
    tower = Tower()
    tower.fails = ZeroDivisionError("a defect")
    callers = [tower.join() for _ in range(3)]
    for caller in callers:
        with pytest.raises(ZeroDivisionError):
            await caller
    assert len(tower.flights) == 0
    tower.fails = None
    lease_of(await tower.join())


@virtual_time
async def test_closing_ends_all_waits() -> None:
    tower = Tower()
    tower.hold(60.0)
    callers = [tower.join() for _ in range(3)] + [tower.join(key=entry_key(2))]
    await turns()
    await tower.flights.close()
    assert await asyncio.gather(*callers) == 4 * [IN_PROGRESS]
    assert len(tower.flights) == 0


@virtual_time
async def test_closing_gives_back_a_lease_that_was_just_granted() -> None:
    tower = Tower()
    tower.runway.clear()
    caller = tower.join()
    await turns()
    closing = asyncio.get_running_loop().create_task(tower.flights.close())
    await turns()
    assert not closing.done()
    tower.runway.set()
    assert await caller == IN_PROGRESS
    await closing
    assert [lease.token for lease in tower.released] == [tower.offers[0].token]


@virtual_time
async def test_nobody_waits_after_closing() -> None:
    tower = Tower()
    tower.hold(60.0)
    await tower.flights.close()
    began_s = now()
    assert await tower.join() == IN_PROGRESS
    tower.hit = STORED
    assert await tower.join() == STORED
    assert now() == began_s


@virtual_time
async def test_an_outage_costs_no_more_memory_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mge_cache_server.flights._LOCAL_MAX", 50)
    tower = Tower()
    tower.down = True
    for number in range(200):
        lease_of(await tower.join(key=entry_key(number)))
    assert len(tower.flights._local) <= 50
