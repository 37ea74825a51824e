"""Flights whose leader or followers go: who takes over, and who notices nothing."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.model import Hit, Lease
from tests.unit.caches import lease_of
from tests.unit.scene import turns
from tests.unit.tower import FILLED, KEY, STORED, Tower, cancel, leaders
from tests.unit.virtual_time import now, virtual_time


@virtual_time
async def test_a_caller_cancelled_before_the_grant_gives_way_to_the_next() -> None:
    tower = Tower()
    tower.runway.clear()
    first, second = tower.join(), tower.join()
    await turns()
    await cancel(first)
    tower.runway.set()
    assert lease_of(await second).token == tower.holder
    assert tower.released == []
    # Asked twice with the same offer: if the first question took the lease, it is the second's.
    assert len(tower.offers) == 2
    assert len(set(tower.offers)) == 1


@virtual_time
async def test_a_lease_that_nobody_waits_for_any_more_is_given_back() -> None:
    tower = Tower()
    tower.runway.clear()
    only = tower.join()
    await turns()
    await cancel(only)
    tower.runway.set()
    await turns()
    assert [lease.token for lease in tower.released] == [tower.offers[0].token]
    assert len(tower.flights) == 0


@virtual_time
async def test_a_caller_cancelled_in_the_moment_of_the_grant_hands_over() -> None:
    tower = Tower()
    tower.runway.clear()
    first, second, third = tower.join(), tower.join(), tower.join()
    await turns()
    await cancel(first)  # from now on, a task asks for the others
    landing = tower.flights._flights[KEY].waiters[0].landing
    tower.runway.set()
    while not landing.done():
        await turns(1)
    assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert len(tower.released) == 1
    assert lease_of(await third).token == tower.holder
    assert tower.offers[0].token != tower.holder


@virtual_time
async def test_a_released_lease_goes_to_the_next_in_line_at_once() -> None:
    tower = Tower()
    callers = [tower.join() for _ in range(5)]
    began_s = now()
    for number in range(5):
        await turns()
        assert leaders(callers) == callers[: number + 1]
        tower._release(lease_of(callers[number].result()))
    assert now() == began_s
    await turns()
    assert len(tower.flights) == 0


@virtual_time
async def test_an_expired_lease_goes_to_the_next_in_line_when_it_expires() -> None:
    tower = Tower()
    callers = [tower.join(lease_ttl_s=0.2) for _ in range(3)]
    began_s = now()
    lease_of(await callers[0])
    lease_of(await callers[1])
    assert now() - began_s == pytest.approx(0.2, abs=0.01)
    lease_of(await callers[2])
    assert now() - began_s == pytest.approx(0.4, abs=0.01)


@virtual_time
async def test_a_message_that_is_lost_costs_a_second() -> None:
    tower = Tower()
    tower.hold(60.0)
    follower = tower.join()
    began_s = now()
    await turns()
    tower.hit = STORED  # and nobody says so
    assert isinstance(await follower, Hit)
    assert now() - began_s == pytest.approx(1.0, abs=0.01)


@virtual_time
async def test_a_renewed_lease_of_another_sidecar_is_waited_for() -> None:
    tower = Tower()
    tower.hold(0.5)
    follower = tower.join(wait_s=10.0)

    async def renew() -> None:
        for _ in range(40):
            tower.hold(0.5)
            await asyncio.sleep(0.2)
        tower.holder = None

    renewing = asyncio.get_running_loop().create_task(renew())
    began_s = now()
    assert lease_of(await follower).token == tower.holder
    assert 8.0 <= now() - began_s < 9.1
    await renewing


@virtual_time
async def test_a_cancelled_follower_disturbs_nobody() -> None:
    tower = Tower()
    leader, follower, other = tower.join(), tower.join(), tower.join()
    await turns()
    await cancel(follower)
    await turns()
    assert lease_of(await leader).token == tower.holder
    assert tower.released == []
    assert leaders([leader, other]) == [leader]
    tower.flights.fulfil(KEY, FILLED)
    assert await other == FILLED


@virtual_time
async def test_the_flight_goes_on_without_the_caller_that_started_it() -> None:
    tower = Tower()
    tower.hold(60.0)
    starter, other = tower.join(), tower.join()
    await turns()
    await cancel(starter)
    tower.hit = STORED
    tower.flights.settled(KEY)
    assert isinstance(await other, Hit)


@virtual_time
async def test_a_flight_ends_when_nobody_waits() -> None:
    tower = Tower()
    tower.hold(60.0)
    callers = [tower.join() for _ in range(3)]
    await turns()
    for caller in callers:
        assert len(tower.flights) == 1
        await cancel(caller)
    await turns()
    assert len(tower.flights) == 0


@virtual_time
async def test_news_of_keys_that_nobody_waits_for_do_nothing() -> None:
    tower = Tower()
    tower.flights.fulfil(KEY, FILLED)
    tower.flights.settled(KEY)
    tower.flights.end_local(Lease(KEY, b"", 0, 1.0))
    assert len(tower.flights) == 0
