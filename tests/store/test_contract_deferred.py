"""The contract of ``DeferredStore``, over every implementation and server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache_server.model import EntryKey
from mge_cache_server.store_deferred import Claim, StoredBatch
from tests.store.examples import KEY
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache_server.store import Store
    from mge_cache_server.store_deferred import DeferredStore

RECORD = bytes(range(256)) * 40
INTENT = StoredBatch(RECORD, "")
OURS, THEIRS = b"o" * 16, b"t" * 16


async def put(deferred: DeferredStore, name: str = "n", *, claim_s: float = 60.0) -> None:
    await deferred.put_batch(name, INTENT, ttl_s=60.0, holder=OURS, claim_s=claim_s)


async def claimed(deferred: DeferredStore, holder: bytes, *, claim_s: float = 60.0) -> Claim:
    return await deferred.claim_batch("n", holder=holder, claim_s=claim_s)


async def test_a_batch_is_found_by_every_sidecar(store: Store, other: Store) -> None:
    await put(store.deferred)
    await put(store.deferred, "m")
    assert sorted(await other.deferred.list_batches()) == ["m", "n"]
    assert await other.deferred.read_batch("n") == INTENT


async def test_anthropics_id_joins_it(store: Store, other: Store) -> None:
    await put(store.deferred)
    assert await store.deferred.name_batch("n", "msgbatch_1")
    assert await other.deferred.read_batch("n") == StoredBatch(RECORD, "msgbatch_1")


async def test_what_was_never_there(store: Store) -> None:
    deferred = store.deferred
    assert await deferred.list_batches() == []
    assert await deferred.read_batch("n") is None
    assert not await deferred.name_batch("n", "msgbatch_1")
    assert await deferred.read_batch("n") is None
    assert await claimed(deferred, OURS) is Claim.GONE
    await deferred.release_batch("n", holder=OURS)
    await deferred.end_batch("n")
    assert await deferred.read_ticket(KEY) is None


async def test_one_holder_at_a_time(store: Store, other: Store) -> None:
    await put(store.deferred)
    assert await claimed(other.deferred, THEIRS) is Claim.THEIRS
    assert await claimed(store.deferred, OURS) is Claim.OURS
    await other.deferred.release_batch("n", holder=THEIRS)
    assert await claimed(other.deferred, THEIRS) is Claim.THEIRS
    await store.deferred.release_batch("n", holder=OURS)
    assert await claimed(other.deferred, THEIRS) is Claim.OURS
    assert await claimed(store.deferred, OURS) is Claim.THEIRS


async def test_a_claim_ends_by_itself(store: Store, other: Store) -> None:
    await put(store.deferred, claim_s=0.02)

    async def free() -> bool:
        return await claimed(other.deferred, THEIRS) is Claim.OURS

    assert await eventually(free)
    assert await other.deferred.read_batch("n") == INTENT


async def test_a_claim_is_prolonged(store: Store, other: Store) -> None:
    await put(store.deferred, claim_s=30.0)
    assert await claimed(store.deferred, OURS, claim_s=0.02) is Claim.OURS

    async def free() -> bool:
        return await claimed(other.deferred, THEIRS) is Claim.OURS

    assert await eventually(free)


async def test_a_batch_that_ended_is_forgotten(store: Store, other: Store) -> None:
    await put(store.deferred)
    await put(store.deferred, "m")
    await other.deferred.end_batch("n")
    assert await store.deferred.list_batches() == ["m"]
    assert await store.deferred.read_batch("n") is None
    assert await claimed(store.deferred, OURS) is Claim.GONE


async def test_a_batch_expires(store: Store) -> None:
    await put(store.deferred)
    await store.deferred.put_batch("m", INTENT, ttl_s=0.02, holder=OURS, claim_s=60.0)

    async def gone() -> bool:
        return await store.deferred.read_batch("m") is None

    assert await eventually(gone)
    assert await store.deferred.list_batches() == ["n"]
    await put(store.deferred, "o")
    assert sorted(await store.deferred.list_batches()) == ["n", "o"]


@pytest.mark.parametrize("ticket", [b"\x01", RECORD])
async def test_tickets_are_of_a_request(store: Store, other: Store, ticket: bytes) -> None:
    await store.deferred.put_ticket(KEY, ticket, 60.0)
    assert await other.deferred.read_ticket(KEY) == ticket
    assert await other.deferred.read_ticket(EntryKey("other", KEY.digest)) is None
    assert await other.deferred.read_ticket(EntryKey(KEY.namespace, bytes(32))) is None
    await other.deferred.put_ticket(KEY, b"later", 60.0)
    assert await store.deferred.read_ticket(KEY) == b"later"
    # It is no entry.
    assert (await store.lookup(KEY)).record is None


async def test_a_ticket_expires(store: Store) -> None:
    await store.deferred.put_ticket(KEY, b"1", 0.02)

    async def gone() -> bool:
        return await store.deferred.read_ticket(KEY) is None

    assert await eventually(gone)
    await store.deferred.put_ticket(EntryKey("ns", bytes(32)), b"2", 60.0)
    assert await store.deferred.read_ticket(KEY) is None
