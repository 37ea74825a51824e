"""Deferred batches in this process's memory: see ``memory_store``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache_server.store_deferred import Claim, StoredBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.model import EntryKey

_LOOK = 4


@dataclass(slots=True)
class _Batch:
    stored: StoredBatch
    expires_s: float
    holder: bytes
    claimed_until_s: float


@dataclass(slots=True)
class DeferredData:
    """What all stores on the same data share."""

    batches: dict[str, _Batch] = field(default_factory=dict)
    tickets: dict[EntryKey, tuple[bytes, float]] = field(default_factory=dict)


class MemoryDeferred:
    """Implements ``DeferredStore``. ``now`` gives seconds."""

    def __init__(self, data: DeferredData, now: Callable[[], float]) -> None:
        self._data = data
        self._now = now

    async def put_batch(
        self, name: str, stored: StoredBatch, *, ttl_s: float, holder: bytes, claim_s: float
    ) -> None:
        """See ``DeferredStore.put_batch``."""
        now_s = self._now()
        self._data.batches[name] = _Batch(stored, now_s + ttl_s, holder, now_s + claim_s)

    async def name_batch(self, name: str, batch_id: str) -> bool:
        """See ``DeferredStore.name_batch``."""
        batch = self._batch(name)
        if batch is None:
            return False
        batch.stored = StoredBatch(batch.stored.record, batch_id)
        return True

    async def claim_batch(self, name: str, *, holder: bytes, claim_s: float) -> Claim:
        """See ``DeferredStore.claim_batch``."""
        batch = self._batch(name)
        if batch is None:
            return Claim.GONE
        now_s = self._now()
        if batch.holder != holder and batch.claimed_until_s > now_s:
            return Claim.THEIRS
        batch.holder, batch.claimed_until_s = holder, now_s + claim_s
        return Claim.OURS

    async def release_batch(self, name: str, *, holder: bytes) -> None:
        """See ``DeferredStore.release_batch``."""
        batch = self._batch(name)
        if batch is not None and batch.holder == holder:
            batch.claimed_until_s = self._now()

    async def read_batch(self, name: str) -> StoredBatch | None:
        """See ``DeferredStore.read_batch``."""
        batch = self._batch(name)
        return None if batch is None else batch.stored

    async def list_batches(self) -> list[str]:
        """See ``DeferredStore.list_batches``."""
        return [name for name in list(self._data.batches) if self._batch(name) is not None]

    async def end_batch(self, name: str) -> None:
        """See ``DeferredStore.end_batch``."""
        self._data.batches.pop(name, None)

    async def put_ticket(self, key: EntryKey, ticket: bytes, ttl_s: float) -> None:
        """See ``DeferredStore.put_ticket``."""
        tickets, now_s = self._data.tickets, self._now()
        # A few of the oldest at each write: what is expired leaves as fast as new comes.
        for old in [old for old, _ in zip(tickets, range(_LOOK), strict=False)]:
            if tickets[old][1] <= now_s:
                del tickets[old]
        tickets.pop(key, None)
        tickets[key] = (ticket, now_s + ttl_s)

    async def read_ticket(self, key: EntryKey) -> bytes | None:
        """See ``DeferredStore.read_ticket``."""
        ticket, expires_s = self._data.tickets.get(key, (None, 0.0))
        return ticket if expires_s > self._now() else None

    def _batch(self, name: str) -> _Batch | None:
        batch = self._data.batches.get(name)
        if batch is not None and batch.expires_s <= self._now():
            del self._data.batches[name]
            return None
        return batch
