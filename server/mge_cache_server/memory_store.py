"""A store in this process's memory, for trying things out and for tests. Nothing survives it.

``MemoryStore.sibling()`` gives a second store on the same data, as a second sidecar would have. All
stores on the same data belong to one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from mge_cache_server.memory_store_deferred import DeferredData, MemoryDeferred
from mge_cache_server.store import (
    EVERYTHING,
    Alive,
    EpochTable,
    FeedEvent,
    Invalidated,
    Lookup,
    Row,
    RowPage,
    RowStored,
    Settled,
    Subscribed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from mge_cache_server.model import EntryKey
    from mge_cache_server.store import LeaseOffer


_K = TypeVar("_K")


@dataclass(slots=True)
class _Lease:
    token: bytes
    expires_s: float
    waited_for: bool = False


@dataclass(slots=True)
class _Namespace:
    clock: int
    epochs: dict[str, int]


@dataclass(slots=True)
class _Data:
    now: Callable[[], float]
    records: dict[EntryKey, tuple[bytes, float]] = field(default_factory=dict)
    leases: dict[EntryKey, _Lease] = field(default_factory=dict)
    namespaces: dict[str, _Namespace] = field(default_factory=dict)
    rows: dict[EntryKey, dict[bytes, tuple[bytes, float]]] = field(default_factory=dict)
    deferred: DeferredData = field(default_factory=DeferredData)
    subscribers: set[asyncio.Queue[FeedEvent]] = field(default_factory=set)


class MemoryStore:
    """Implements ``Store``. ``now`` gives seconds since 1970, for expiry and for ticks."""

    kind = "memory"

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        retention_s: float = 8 * 86400.0,
        alive_s: float = 0.25,
    ) -> None:
        self.writer = secrets.token_hex(4)
        self._data = _Data(now)
        self._retention_s = retention_s
        self._alive_s = alive_s

    def sibling(self) -> MemoryStore:
        """Return another store on the same data."""
        other = MemoryStore(retention_s=self._retention_s, alive_s=self._alive_s)
        other._data = self._data
        return other

    @property
    def deferred(self) -> MemoryDeferred:
        """See ``Store.deferred``."""
        return MemoryDeferred(self._data.deferred, self._data.now)

    @property
    def available(self) -> bool:
        """Always."""
        return True

    async def start(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def lookup(
        self, key: EntryKey, offer: LeaseOffer | None = None, reject: bytes = b""
    ) -> Lookup:
        """See ``Store.lookup``."""
        now_s = self._data.now()
        found = self._data.records.get(key)
        if found is not None:
            record, expires_s = found
            if expires_s <= now_s or not record or (reject and record.startswith(reject)):
                del self._data.records[key]
            else:
                return Lookup(record, expires_s - now_s, granted=False)
        lease = self._lease(key)
        if lease is not None and (offer is None or lease.token != offer.token):
            lease.waited_for = lease.waited_for or offer is not None
            return Lookup(None, lease.expires_s - now_s, granted=False)
        if offer is None:
            return Lookup(None, 0.0, granted=False)
        self._data.leases[key] = _Lease(offer.token, now_s + offer.ttl_s)
        return Lookup(None, 0.0, granted=True)

    async def lookup_dated(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes, *, after: int
    ) -> tuple[Lookup, EpochTable]:
        """See ``Store.lookup_dated``."""
        found = await self.lookup(key, offer, reject)
        return found, await self.read_epochs(key.namespace, after)

    async def put(self, key: EntryKey, record: bytes, ttl_s: float, token: bytes = b"") -> None:
        """See ``Store.put``."""
        _forget_expired(self._data.records, self._data.now())
        self._data.records[key] = (record, self._data.now() + ttl_s)
        lease = self._lease(key)
        if lease is None:
            return
        if lease.token == token:
            del self._data.leases[key]
        if lease.waited_for:
            self._publish(Settled(key))

    async def renew_lease(self, key: EntryKey, token: bytes, ttl_s: float) -> bool:
        """See ``Store.renew_lease``."""
        lease = self._lease(key)
        if lease is None or lease.token != token:
            return False
        lease.expires_s = self._data.now() + ttl_s
        return True

    async def release_lease(self, key: EntryKey, token: bytes) -> None:
        """See ``Store.release_lease``."""
        lease = self._lease(key)
        if lease is not None and lease.token == token:
            del self._data.leases[key]
            if lease.waited_for:
                self._publish(Settled(key))

    async def read_epochs(self, namespace: str, after: int) -> EpochTable:
        """See ``Store.read_epochs``."""
        known = self._data.namespaces.get(namespace)
        if known is None:
            tick = self._tick(0)
            known = self._data.namespaces[namespace] = _Namespace(tick, {EVERYTHING: tick})
        return EpochTable(
            known.clock, {tag: tick for tag, tick in known.epochs.items() if tick > after}
        )

    async def advance(self, namespace: str, tags: Sequence[str], *, after: int = 0) -> Invalidated:
        """See ``Store.advance``."""
        known = self._data.namespaces.get(namespace)
        previous = 0 if known is None else known.clock
        tick = self._tick(max(previous, after))
        if known is None:
            known = self._data.namespaces[namespace] = _Namespace(tick, {EVERYTHING: tick})
        oldest = tick - round(self._retention_s * 1e6)
        known.epochs = {tag: at for tag, at in known.epochs.items() if at >= oldest}
        known.epochs.update(dict.fromkeys(tags, tick))
        known.clock = tick
        event = Invalidated(namespace, previous, tick, tuple(tags))
        self._publish(event)
        return event

    async def put_row(self, partition: EntryKey, row: Row) -> None:
        """See ``Store.put_row``."""
        rows = self._data.rows.setdefault(partition, {})
        _forget_expired(rows, self._data.now())
        rows.pop(row.digest, None)
        rows[row.digest] = (row.content, self._data.now() + row.remaining_s)
        self._publish(RowStored(partition, row.digest, self.writer))

    async def list_rows(self, partition: EntryKey, cursor: int) -> RowPage:  # noqa: ARG002
        """See ``Store.list_rows``."""
        now_s = self._data.now()
        rows = self._data.rows.get(partition, {}).items()
        left = {digest: at_s - now_s for digest, (_, at_s) in rows if at_s > now_s}
        return RowPage(0, left)

    async def read_rows(self, partition: EntryKey, digests: Sequence[bytes]) -> list[Row]:
        """See ``Store.read_rows``."""
        now_s = self._data.now()
        rows = self._data.rows.get(partition, {})
        found = [(digest, *rows[digest]) for digest in digests if digest in rows]
        return [Row(key, content, at_s - now_s) for key, content, at_s in found if at_s > now_s]

    async def feed(self) -> AsyncGenerator[FeedEvent, None]:
        """See ``Store.feed``."""
        queue: asyncio.Queue[FeedEvent] = asyncio.Queue()
        self._data.subscribers.add(queue)
        try:
            yield Subscribed()
            while True:
                try:
                    async with asyncio.timeout(self._alive_s):
                        event = await queue.get()
                except TimeoutError:
                    event = Alive()
                yield event
        finally:
            self._data.subscribers.discard(queue)

    async def scan(self, namespace: str) -> AsyncIterator[tuple[bytes, bytes, float]]:
        """See ``Store.scan``."""
        now_s = self._data.now()
        for key, (record, expires_s) in list(self._data.records.items()):
            if key.namespace == namespace and expires_s > now_s:
                yield key.digest, record, expires_s - now_s

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _lease(self, key: EntryKey) -> _Lease | None:
        lease = self._data.leases.get(key)
        if lease is not None and lease.expires_s <= self._data.now():
            del self._data.leases[key]
            return None
        return lease

    def _tick(self, previous: int) -> int:
        return max(round(self._data.now() * 1e6), previous + 1)

    def _publish(self, event: FeedEvent) -> None:
        for queue in self._data.subscribers:
            queue.put_nowait(event)


def _forget_expired(timed: dict[_K, tuple[bytes, float]], now_s: float) -> None:
    # A few of the oldest at each write: what is expired leaves as fast as new comes.
    for key in [key for key, _ in zip(timed, range(4), strict=False)]:
        if timed[key][1] <= now_s:
            del timed[key]
