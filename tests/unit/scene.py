"""Injected clocks, and a store that can be paused and switched off, for tests of the core."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.model import Answer, Entry, EntryKey, Usage
from tests.unit.scene_deferred import StageDeferred

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from mge_cache_server.memory_store import MemoryStore
    from mge_cache_server.store import (
        EpochTable,
        FeedEvent,
        Invalidated,
        LeaseOffer,
        Lookup,
        Row,
        RowPage,
    )

T = TypeVar("T")

START_S = 1_800_000_000.0


class Clock:
    """A clock that stands still until it is told to advance. In seconds."""

    def __init__(self, start_s: float = START_S) -> None:
        self.now_s = start_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def entry_key(number: int = 1, namespace: str = "ns") -> EntryKey:
    return EntryKey(namespace, digest(number))


def make_answer(body: bytes = b"answer", *, model: str = "m", cost_usd: float = 0.5) -> Answer:
    return Answer(body, "text/plain", model, Usage(1, 2, 3, 4), cost_usd, 1.5)


def make_entry(body: bytes = b"answer", *, tick: int = 1, tags: tuple[str, ...] = ()) -> Entry:
    return Entry(make_answer(body), tick, 0, tags)


async def turns(count: int = 30) -> None:
    """Let other tasks run until they wait for something that only the test can bring about."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """Where an operation of the store is held: after it was asked for, or before it answers."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        self.waiting += 1
        await self._open.wait()
        self.waiting -= 1


class StageStore:
    """A MemoryStore behind a line that can be cut (``down``) or held (``before``, ``after``).

    ``before[operation]`` holds requests on their way to the data; ``after[operation]`` holds
    replies on their way back. ``calls`` are the operations that reached the line.
    """

    kind = "memory"

    def __init__(self, data: MemoryStore) -> None:
        self.data = data
        self.writer = data.writer
        self.down = False
        self.before: dict[str, Gate] = {}
        self.after: dict[str, Gate] = {}
        self.calls: list[str] = []

    @property
    def deferred(self) -> StageDeferred:
        return StageDeferred(self.data.deferred, self._there, self._back)

    @property
    def available(self) -> bool:
        return not self.down

    async def start(self) -> None:
        return

    async def lookup(
        self, key: EntryKey, offer: LeaseOffer | None = None, reject: bytes = b""
    ) -> Lookup:
        await self._there("lookup")
        return await self._back("lookup", await self.data.lookup(key, offer, reject))

    async def lookup_dated(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes, *, after: int
    ) -> tuple[Lookup, EpochTable]:
        found = await self.lookup(key, offer, reject)
        return found, await self.read_epochs(key.namespace, after)

    async def put(self, key: EntryKey, record: bytes, ttl_s: float, token: bytes = b"") -> None:
        await self._there("put")
        await self.data.put(key, record, ttl_s, token)
        await self._back("put", None)

    async def renew_lease(self, key: EntryKey, token: bytes, ttl_s: float) -> bool:
        await self._there("renew_lease")
        return await self._back("renew_lease", await self.data.renew_lease(key, token, ttl_s))

    async def release_lease(self, key: EntryKey, token: bytes) -> None:
        await self._there("release_lease")
        await self.data.release_lease(key, token)
        await self._back("release_lease", None)

    async def read_epochs(self, namespace: str, after: int) -> EpochTable:
        await self._there("read_epochs")
        return await self._back("read_epochs", await self.data.read_epochs(namespace, after))

    async def advance(self, namespace: str, tags: Sequence[str], *, after: int = 0) -> Invalidated:
        await self._there("advance")
        done = await self.data.advance(namespace, tags, after=after)
        return await self._back("advance", done)

    async def put_row(self, partition: EntryKey, row: Row) -> None:
        await self._there("put_row")
        await self.data.put_row(partition, row)
        await self._back("put_row", None)

    async def list_rows(self, partition: EntryKey, cursor: int) -> RowPage:
        await self._there("list_rows")
        return await self._back("list_rows", await self.data.list_rows(partition, cursor))

    async def read_rows(self, partition: EntryKey, digests: Sequence[bytes]) -> list[Row]:
        await self._there("read_rows")
        return await self._back("read_rows", await self.data.read_rows(partition, digests))

    async def feed(self) -> AsyncGenerator[FeedEvent, None]:
        if self.down:
            raise StoreUnavailableError("cut")
        async for event in self.data.feed():
            yield event

    async def scan(self, namespace: str) -> AsyncIterator[tuple[bytes, bytes, float]]:
        async for found in self.data.scan(namespace):
            yield found

    async def close(self) -> None:
        return

    async def _there(self, operation: str) -> None:
        self.calls.append(operation)
        if operation in self.before:
            await self.before[operation].passed()
        if self.down:
            raise StoreUnavailableError("cut")

    async def _back(self, operation: str, reply: T) -> T:
        if operation in self.after:
            await self.after[operation].passed()
        if self.down:
            raise StoreUnavailableError("cut")
        return reply
