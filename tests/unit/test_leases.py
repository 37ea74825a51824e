"""Leases that are held by an open call: renewed, fulfilled, lost, given back."""

from __future__ import annotations

import asyncio

import pytest

from mge_cache_server.flights import Flights, Held
from mge_cache_server.leases import Leases
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import Entry, EntryKey, Hit, Lease, LeaseEnd, Miss
from mge_cache_server.store import LeaseOffer
from tests.unit.scene import Gate, StageStore, entry_key, turns
from tests.unit.virtual_time import now, virtual_time

KEY = entry_key()
LEASE = Lease(KEY, b"o" * 16, 5, 3.0)
THEIRS = LeaseOffer(b"t" * 16, 3.0)


class Desk:
    """Leases over a store in memory."""

    def __init__(self) -> None:
        self.store = StageStore(MemoryStore(now=now))
        self.failures: list[tuple[str, str]] = []
        self.leases = Leases(self.store, failed=lambda *failure: self.failures.append(failure))
        self.flights = Flights(
            self._probe, release=self.leases.release, local_tick=lambda _: 0, now=now
        )
        self.leases.attach(self.flights.end_local)

    async def take(self) -> None:
        assert (await self.store.lookup(KEY, LeaseOffer(LEASE.token, LEASE.ttl_s))).granted

    async def hold(self, *, max_s: float = 600.0) -> asyncio.Task[LeaseEnd]:
        task = asyncio.get_running_loop().create_task(self.leases.hold(LEASE, max_s))
        await turns()
        return task

    async def free(self) -> bool:
        """Say whether another could take the lease; takes it, if so."""
        return (await self.store.data.lookup(KEY, THEIRS)).granted

    def renewals(self) -> int:
        return self.store.calls.count("renew_lease")

    async def _probe(self, key: EntryKey, offer: LeaseOffer) -> Hit[Entry] | Lease | Held:
        found = await self.store.lookup(key, offer)
        if found.granted:
            return Lease(key, offer.token, 5, offer.ttl_s)
        return Held(found.remaining_s)


@virtual_time
async def test_a_held_lease_is_renewed_every_third_of_its_time() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    began_s = now()
    await asyncio.sleep(30.5)
    assert desk.renewals() == 30
    assert not await desk.free()
    assert now() - began_s == 30.5
    await desk.leases.close()
    await holding


@virtual_time
async def test_a_renewal_counts_from_now() -> None:
    desk = Desk()
    await desk.take()
    await asyncio.sleep(2.0)
    assert await desk.leases.renew(LEASE)
    await asyncio.sleep(2.5)
    assert not await desk.free()
    await asyncio.sleep(0.5)
    assert await desk.free()


@virtual_time
async def test_an_answer_ends_the_hold() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    desk.leases.fulfilled(LEASE.token)
    desk.leases.fulfilled(LEASE.token)  # SetPrompt may be repeated
    assert await holding is LeaseEnd.FULFILLED
    await turns()
    assert "release_lease" not in desk.store.calls
    desk.leases.fulfilled(b"unknown")


@virtual_time
async def test_a_lease_that_somebody_else_has_is_lost() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    await desk.store.data.release_lease(KEY, LEASE.token)
    assert await desk.free()
    began_s = now()
    assert await holding is LeaseEnd.LOST
    assert now() - began_s == pytest.approx(1.0)
    await turns()
    # What the new holder has stays its own.
    assert await desk.store.data.renew_lease(KEY, THEIRS.token, 3.0)
    assert not await desk.leases.renew(LEASE)


@virtual_time
async def test_a_lease_is_given_up_after_the_callers_maximum() -> None:
    desk = Desk()
    await desk.take()
    began_s = now()
    holding = await desk.hold(max_s=4.5)
    assert await holding is LeaseEnd.LOST
    assert now() - began_s == pytest.approx(4.5)
    await turns()
    assert await desk.free()


@virtual_time
async def test_a_cancelled_hold_gives_the_lease_to_the_next_in_line() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    waiting = asyncio.get_running_loop().create_task(
        desk.flights.join(KEY, wait_s=60.0, lease_ttl_s=3.0)
    )
    await turns()
    began_s = now()
    holding.cancel()
    outcome = await waiting
    assert isinstance(outcome, Miss)
    assert outcome.lease is not None
    assert now() == began_s
    with pytest.raises(asyncio.CancelledError):
        await holding


@virtual_time
async def test_a_store_that_is_away_does_not_end_a_hold() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    desk.store.down = True
    await asyncio.sleep(1.5)
    assert not holding.done()
    assert desk.failures == [("ns", "renew_lease")]
    desk.store.down = False
    await asyncio.sleep(2.0)
    assert not holding.done()
    desk.leases.fulfilled(LEASE.token)
    assert await holding is LeaseEnd.FULFILLED


@virtual_time
async def test_a_lease_that_expired_while_the_store_was_away_is_lost_afterwards() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    desk.store.down = True
    await asyncio.sleep(5.5)
    desk.store.down = False
    assert await holding is LeaseEnd.LOST


@virtual_time
async def test_a_failed_release_is_counted_and_wakes_who_waits_here() -> None:
    desk = Desk()
    desk.store.down = True
    leader = await desk.flights.join(KEY, wait_s=60.0, lease_ttl_s=3.0)
    assert isinstance(leader, Miss)
    assert leader.lease is not None
    waiting = asyncio.get_running_loop().create_task(
        desk.flights.join(KEY, wait_s=60.0, lease_ttl_s=3.0)
    )
    await turns()
    began_s = now()
    desk.leases.release(leader.lease)
    outcome = await waiting
    assert isinstance(outcome, Miss)
    assert outcome.lease is not None
    assert now() == began_s
    assert desk.failures == [("ns", "release_lease")]


@virtual_time
async def test_two_calls_may_hold_one_lease() -> None:
    desk = Desk()
    await desk.take()
    first, second = await desk.hold(), await desk.hold()
    desk.leases.fulfilled(LEASE.token)
    assert [await first, await second] == 2 * [LeaseEnd.FULFILLED]


@virtual_time
async def test_closing_ends_holds_and_gives_the_leases_back() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    began_s = now()
    await desk.leases.close()
    assert await desk.free()
    assert await holding is LeaseEnd.LOST
    assert now() == began_s


@virtual_time
async def test_nothing_is_held_after_closing() -> None:
    desk = Desk()
    await desk.take()
    await desk.leases.close()
    assert await desk.leases.hold(LEASE, 600.0) is LeaseEnd.LOST
    await turns()
    assert await desk.free()


@virtual_time
async def test_a_hold_that_is_renewing_while_all_close_is_lost() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    gate = desk.store.before["renew_lease"] = Gate()
    await asyncio.sleep(1.0)
    assert gate.waiting == 1
    await desk.leases.close()
    assert await desk.free()
    gate.open()
    assert await holding is LeaseEnd.LOST


@virtual_time
async def test_closing_waits_for_releases_under_way() -> None:
    desk = Desk()
    await desk.take()
    desk.leases.release(LEASE)
    assert desk.store.calls == ["lookup"]
    await desk.leases.close()
    assert desk.store.calls == ["lookup", "release_lease"]
    assert await desk.free()


@virtual_time
async def test_a_lease_that_is_let_go_is_not_given_back() -> None:
    desk = Desk()
    await desk.take()
    holding = await desk.hold()
    desk.leases.let_go(LEASE)
    assert await holding is LeaseEnd.LOST
    await desk.leases.close()
    assert not await desk.free()
    desk.leases.let_go(LEASE)  # nobody holds it any more: nothing happens


@virtual_time
async def test_a_kept_lease_is_renewed_and_given_back_at_the_end_of_the_block() -> None:
    desk = Desk()
    await desk.take()
    with desk.leases.kept(LEASE, 600.0):
        await asyncio.sleep(30.5)
        assert desk.renewals() == 30
        assert not await desk.free()
    await turns()
    assert await desk.free()
    assert desk.leases._held == {}
    assert len(asyncio.all_tasks()) == 1


@virtual_time
async def test_a_block_that_ends_at_once_gives_its_lease_back_too() -> None:
    desk = Desk()
    await desk.take()
    with desk.leases.kept(LEASE, 600.0):
        pass
    await turns()
    assert await desk.free()
    await asyncio.sleep(10.0)
    assert desk.renewals() == 0


@virtual_time
async def test_an_answer_ends_a_kept_lease_without_giving_it_back() -> None:
    desk = Desk()
    await desk.take()
    with desk.leases.kept(LEASE, 600.0):
        await asyncio.sleep(1.5)
        desk.leases.fulfilled(LEASE.token)
    await turns()
    assert "release_lease" not in desk.store.calls


@virtual_time
async def test_a_kept_lease_that_is_lost_is_not_renewed_again() -> None:
    desk = Desk()
    await desk.take()
    with desk.leases.kept(LEASE, 600.0):
        await desk.store.data.release_lease(KEY, LEASE.token)
        assert await desk.free()
        await asyncio.sleep(10.0)
        assert desk.renewals() == 1


@virtual_time
async def test_closing_gives_kept_leases_back() -> None:
    desk = Desk()
    await desk.take()
    with desk.leases.kept(LEASE, 600.0):
        await asyncio.sleep(1.5)
        await desk.leases.close()
        assert await desk.free()
