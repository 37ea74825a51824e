"""The contract of ``Store``'s leases, over every implementation and server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.model import EntryKey
from mge_cache_server.store import LeaseOffer
from tests.store.examples import GRANTED, HEADER, KEY, NOTHING, OURS, RECORD, THEIRS
from tests.store.listener import listening
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache_server.store import Store


async def test_a_lease_is_granted_once(store: Store, other: Store) -> None:
    assert await store.lookup(KEY, OURS) == GRANTED
    refused = await other.lookup(KEY, THEIRS)
    assert (refused.record, refused.granted) == (None, False)
    assert 50.0 < refused.remaining_s <= 60.0


async def test_a_look_up_without_an_offer_sees_the_lease_and_leaves_it(
    store: Store, other: Store
) -> None:
    await store.lookup(KEY, OURS)
    seen = await other.lookup(KEY)
    assert (seen.record, seen.granted) == (None, False)
    assert 50.0 < seen.remaining_s <= 60.0
    assert await store.renew_lease(KEY, OURS.token, 60.0)


async def test_a_repeated_offer_gets_its_lease_again(store: Store) -> None:
    assert await store.lookup(KEY, OURS) == GRANTED
    assert await store.lookup(KEY, OURS) == GRANTED


async def test_of_many_concurrent_offers_one_is_granted(store: Store, other: Store) -> None:
    offers = [LeaseOffer(number.to_bytes(16), 60.0) for number in range(100)]
    stores = (store, other)
    found = await asyncio.gather(
        *(stores[number % 2].lookup(KEY, offer) for number, offer in enumerate(offers))
    )
    assert sum(each.granted for each in found) == 1


async def test_a_lease_expires(store: Store, other: Store) -> None:
    await store.lookup(KEY, LeaseOffer(OURS.token, 0.03))
    await eventually(lambda: _granted(other, THEIRS))
    assert not await store.renew_lease(KEY, OURS.token, 60.0)


async def _granted(store: Store, offer: LeaseOffer) -> bool:
    return (await store.lookup(KEY, offer)).granted


async def test_a_lease_is_renewed_by_its_holder_only(store: Store, other: Store) -> None:
    await store.lookup(KEY, LeaseOffer(OURS.token, 10.0))
    assert not await other.renew_lease(KEY, THEIRS.token, 60.0)
    assert (await other.lookup(KEY)).remaining_s <= 10.0
    assert await other.renew_lease(KEY, OURS.token, 60.0)  # by whichever sidecar
    assert 50.0 < (await store.lookup(KEY)).remaining_s <= 60.0


async def test_a_renewal_counts_from_now(store: Store) -> None:
    await store.lookup(KEY, OURS)
    assert await store.renew_lease(KEY, OURS.token, 0.03)
    await eventually(lambda: _granted(store, THEIRS))


async def test_a_lease_that_nobody_waits_for_can_be_renewed_after_somebody_has(
    store: Store, other: Store
) -> None:
    await store.lookup(KEY, OURS)
    await other.lookup(KEY, THEIRS)
    assert await store.renew_lease(KEY, OURS.token, 60.0)
    assert await store.lookup(KEY, OURS) == GRANTED


async def test_no_lease_is_renewed_where_none_is(store: Store) -> None:
    assert not await store.renew_lease(KEY, OURS.token, 60.0)
    assert await store.lookup(KEY) == NOTHING


async def test_a_released_lease_is_free(store: Store, other: Store) -> None:
    await store.lookup(KEY, OURS)
    await store.release_lease(KEY, OURS.token)
    assert await other.lookup(KEY, THEIRS) == GRANTED
    await store.release_lease(KEY, OURS.token)  # again: it is not ours any more
    assert not (await store.lookup(KEY, OURS)).granted


async def test_a_lease_is_released_by_its_holder_only(store: Store, other: Store) -> None:
    await store.lookup(KEY, OURS)
    await other.release_lease(KEY, THEIRS.token)
    assert not (await other.lookup(KEY, THEIRS)).granted


async def test_put_ends_the_lease_of_its_token(store: Store, other: Store) -> None:
    await store.lookup(KEY, OURS)
    await store.put(KEY, RECORD, 60.0, OURS.token)
    assert not await store.renew_lease(KEY, OURS.token, 60.0)
    assert await other.lookup(KEY, THEIRS, HEADER) == GRANTED


@pytest.mark.parametrize("token", [b"", THEIRS.token], ids=["none", "another"])
async def test_put_leaves_the_lease_of_another_token(store: Store, token: bytes) -> None:
    await store.lookup(KEY, OURS)
    await store.put(KEY, RECORD, 60.0, token)
    assert await store.renew_lease(KEY, OURS.token, 60.0)
    assert not (await store.lookup(KEY, THEIRS, HEADER)).granted


@pytest.mark.parametrize("token", [OURS.token, b""], ids=["the holder's", "none"])
async def test_put_wakes_who_waits(store: Store, other: Store, token: bytes) -> None:
    await store.lookup(KEY, OURS)
    async with listening(other) as listener:
        await other.lookup(KEY, THEIRS)
        await store.put(KEY, RECORD, 60.0, token)
        await eventually(lambda: listener.settled)
        assert [event.key for event in listener.settled] == [KEY]
        assert (await other.lookup(KEY)).record == RECORD


async def test_release_wakes_who_waits(store: Store, other: Store) -> None:
    await store.lookup(KEY, OURS)
    async with listening(other) as listener:
        await other.lookup(KEY, THEIRS)
        await store.release_lease(KEY, OURS.token)
        await eventually(lambda: listener.settled)
        assert [event.key for event in listener.settled] == [KEY]
        assert await other.lookup(KEY, THEIRS) == GRANTED


async def test_who_waits_is_remembered_over_a_renewal(store: Store, other: Store) -> None:
    await store.lookup(KEY, OURS)
    async with listening(other) as listener:
        await other.lookup(KEY, THEIRS)
        await store.renew_lease(KEY, OURS.token, 30.0)
        await store.put(KEY, RECORD, 60.0, OURS.token)
        await eventually(lambda: listener.settled)


async def test_nobody_is_woken_who_did_not_wait(store: Store, other: Store) -> None:
    waited_for = EntryKey("ns", KEY.digest[::-1])
    async with listening(other) as listener:
        await store.lookup(KEY, OURS)
        await other.lookup(KEY)  # looks, but does not want the lease
        await other.release_lease(KEY, THEIRS.token)
        await store.put(KEY, RECORD, 60.0, OURS.token)
        await store.lookup(waited_for, OURS)
        await other.lookup(waited_for, THEIRS)
        await store.put(waited_for, RECORD, 60.0, OURS.token)
        await eventually(lambda: listener.settled)
        assert [event.key for event in listener.settled] == [waited_for]
