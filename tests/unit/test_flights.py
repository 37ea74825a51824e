"""Single flight inside a sidecar: who gets the lease, who waits, and who takes over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.flights import Flights, Held
from mge_cache_server.model import Hit, HitSource, Lease, Miss
from tests.unit.scene import entry_key, make_entry, turns
from tests.unit.virtual_time import now, virtual_time

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey
    from mge_cache_server.store import LeaseOffer

KEY = entry_key()
TICK = 77
LOCAL_TICK = 55
STORED = Hit(make_entry(), HitSource.STORE, 60.0, degraded=False)
FILLED = Hit(make_entry(b"filled"), HitSource.FLIGHT, 60.0, degraded=False)
IN_PROGRESS = Miss(in_progress=True)


class Tower:
    """A store with one key, and the flights to it."""

    def __init__(self) -> None:
        self.hit: Hit | None = None
        self.holder: bytes | None = None
        self.expires_s = 0.0
        self.down = False
        self.fails: Exception | None = None
        self.offers: list[LeaseOffer] = []
        self.released: list[Lease] = []
        self.runway = asyncio.Event()
        self.runway.set()
        self.flights = Flights(
            self._probe, release=self._release, local_tick=lambda _: LOCAL_TICK, now=now
        )

    def join(
        self, *, wait_s: float = 100.0, lease_ttl_s: float = 60.0, key: EntryKey = KEY
    ) -> asyncio.Task[Hit | Miss]:
        joining = self.flights.join(key, wait_s=wait_s, lease_ttl_s=lease_ttl_s)
        return asyncio.get_running_loop().create_task(joining)

    async def _probe(self, key: EntryKey, offer: LeaseOffer) -> Hit | Lease | Held:
        self.offers.append(offer)
        await self.runway.wait()
        if self.fails is not None:
            raise self.fails
        if self.down:
            raise StoreUnavailableError("down")
        if self.hit is not None:
            return self.hit
        if self.holder is not None and self.expires_s > now():
            return Held(self.expires_s - now())
        self.holder, self.expires_s = offer.token, now() + offer.ttl_s
        return Lease(key, offer.token, TICK, offer.ttl_s)

    def _release(self, lease: Lease) -> None:
        self.released.append(lease)
        if self.holder == lease.token:
            self.holder = None
        self.flights.end_local(lease)

    def hold(self, ttl_s: float) -> None:
        """Let another sidecar have the lease."""
        self.holder, self.expires_s = b"theirs", now() + ttl_s


def lease_of(outcome: Hit | Miss) -> Lease:
    assert isinstance(outcome, Miss)
    assert outcome.lease is not None
    return outcome.lease


def leaders(tasks: list[asyncio.Task[Hit | Miss]]) -> list[asyncio.Task[Hit | Miss]]:
    """Return the callers that have been given a lease."""
    done = [task for task in tasks if task.done() and not task.cancelled()]
    return [
        task
        for task in done
        if isinstance(outcome := task.result(), Miss) and outcome.lease is not None
    ]


async def cancel(task: asyncio.Task[Hit | Miss]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@virtual_time
async def test_one_of_many_callers_leads_and_the_others_get_its_answer() -> None:
    tower = Tower()
    callers = [tower.join() for _ in range(1000)]
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
    callers = [tower.join() for _ in range(3)] + [tower.join(wait_s=0.0)]
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
    assert lease_of(await impatient)
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
async def test_a_caller_cancelled_before_the_grant_gives_way_to_the_next() -> None:
    tower = Tower()
    tower.runway.clear()
    first, second = tower.join(), tower.join()
    await turns()
    await cancel(first)
    tower.runway.set()
    assert lease_of(await second).token == tower.holder
    assert tower.released == []
    assert len(tower.offers) == 1


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
    first, second = tower.join(), tower.join()
    await turns()
    landing = tower.flights._flights[KEY].waiters[0].landing
    tower.runway.set()
    while not landing.done():
        await asyncio.sleep(0)
    assert not first.done()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(tower.released) == 1
    assert lease_of(await second).token == tower.holder
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
    assert lease_of(await callers[0])
    assert lease_of(await callers[1])
    assert now() - began_s == pytest.approx(0.2, abs=0.01)
    assert lease_of(await callers[2])
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
    assert len(tower.offers) == 1
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
    assert lease_of(await tower.join(lease_ttl_s=9.0))  # when the first has expired
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
    assert lease_of(await tower.join(wait_s=0.0))


@virtual_time
async def test_expired_leases_of_this_sidecar_are_forgotten() -> None:
    tower = Tower()
    tower.down = True
    for number in range(100):
        await tower.join(key=entry_key(number), lease_ttl_s=1.0)
    await asyncio.sleep(1.0)
    await tower.join(key=entry_key(1000))
    assert len(tower.flights._local) == 1


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
    assert lease_of(await tower.join())


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
    assert await caller == IN_PROGRESS
    assert not closing.done()
    tower.runway.set()
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
