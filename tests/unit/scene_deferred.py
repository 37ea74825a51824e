"""The deferred batches of a ``StageStore``: behind the same line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache_server.memory_store_deferred import MemoryDeferred
    from mge_cache_server.model import EntryKey
    from mge_cache_server.store_deferred import Claim, StoredBatch

T = TypeVar("T")


class _Back(Protocol):
    async def __call__(self, operation: str, reply: T) -> T: ...


class StageDeferred:
    """Implements ``DeferredStore``; ``there`` and ``back`` are the ways of the line."""

    def __init__(
        self, data: MemoryDeferred, there: Callable[[str], Awaitable[None]], back: _Back
    ) -> None:
        self._data = data
        self._there = there
        self._back = back

    async def put_batch(
        self, name: str, stored: StoredBatch, *, ttl_s: float, holder: bytes, claim_s: float
    ) -> None:
        await self._there("put_batch")
        await self._data.put_batch(name, stored, ttl_s=ttl_s, holder=holder, claim_s=claim_s)
        await self._back("put_batch", None)

    async def name_batch(self, name: str, batch_id: str) -> bool:
        await self._there("name_batch")
        return await self._back("name_batch", await self._data.name_batch(name, batch_id))

    async def claim_batch(self, name: str, *, holder: bytes, claim_s: float) -> Claim:
        await self._there("claim_batch")
        claim = await self._data.claim_batch(name, holder=holder, claim_s=claim_s)
        return await self._back("claim_batch", claim)

    async def release_batch(self, name: str, *, holder: bytes) -> None:
        await self._there("release_batch")
        await self._data.release_batch(name, holder=holder)
        await self._back("release_batch", None)

    async def read_batch(self, name: str) -> StoredBatch | None:
        await self._there("read_batch")
        return await self._back("read_batch", await self._data.read_batch(name))

    async def list_batches(self) -> list[str]:
        await self._there("list_batches")
        return await self._back("list_batches", await self._data.list_batches())

    async def end_batch(self, name: str) -> None:
        await self._there("end_batch")
        await self._data.end_batch(name)
        await self._back("end_batch", None)

    async def put_ticket(self, key: EntryKey, ticket: bytes, ttl_s: float) -> None:
        await self._there("put_ticket")
        await self._data.put_ticket(key, ticket, ttl_s)
        await self._back("put_ticket", None)

    async def read_ticket(self, key: EntryKey) -> bytes | None:
        await self._there("read_ticket")
        return await self._back("read_ticket", await self._data.read_ticket(key))
