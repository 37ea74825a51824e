"""What every cache does with its entries: memory, then the store, then one computation for all.

The prompt cache and the RAG cache share the L1, the epochs and the leases; each has its own form
of entries, flights and counts. Belongs to the event loop's thread.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol

from mge_cache_server.codec import HEADER_BYTES, RecordError
from mge_cache_server.errors import InvalidRequestError, StoreError
from mge_cache_server.flights import Flights, Held
from mge_cache_server.model import E, EntryKey, Hit, HitSource, Lease, SetStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.counts import Counts, LayerCounts
    from mge_cache_server.epochs import Epochs, NamespaceEpochs
    from mge_cache_server.l1 import L1Cache
    from mge_cache_server.leases import Leases
    from mge_cache_server.model import Answer, Retrieval
    from mge_cache_server.store import LeaseOffer, Lookup, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What an operator decides. Times in seconds; ``ttl_jitter`` is a fraction of the TTL."""

    enabled: bool
    ttl_s: float
    namespace_ttl_s: dict[str, float]
    ttl_max_s: float
    ttl_jitter: float
    namespaces_max: int


class Codec(Protocol[E]):
    """A form of records, such as the module ``codec``."""

    def encode(self, entry: E, /) -> bytes:
        """Write an entry."""

    def decode(self, record: bytes, /) -> E:
        """Read an entry; raises RecordError."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the caches of a sidecar have in common; ``wall_clock`` is in seconds since 1970."""

    store: Store
    l1: L1Cache
    epochs: Epochs
    counts: Counts
    leases: Leases
    wall_clock: Callable[[], float] = time.time


class EntryCache(Generic[E]):
    """Finds and keeps entries of one kind. ``layer`` is where their failures are counted."""

    def __init__(
        self, parts: Parts, *, layer: str, kind: type[E], codec: Codec[E], policy: CachePolicy
    ) -> None:
        self._store = parts.store
        self._l1 = parts.l1
        self._epochs = epochs = parts.epochs
        self._counts = parts.counts
        self._wall_clock = parts.wall_clock
        self._layer = layer
        self._kind = kind
        self._codec = codec
        self._policy = policy
        self.leases = parts.leases
        self.flights: Flights[E] = Flights(
            self._read,
            release=self.leases.release,
            local_tick=lambda namespace: max(epochs.of(namespace).clock, 0),
        )
        self.leases.attach(self.flights.end_local)

    async def close(self) -> None:
        """End all waits and give all leases back."""
        await self.flights.close()
        await self.leases.close()

    async def invalidate(self, namespace: str, tag: str) -> int:
        """Make everything with ``tag`` unreachable, of whatever cache; returns the tick.

        Raises StoreError.
        """
        self._namespace(namespace)
        try:
            tick = await self._epochs.advance(namespace, tag)
        except StoreError:
            self._failed(namespace, "advance")
            raise
        self._count(namespace).invalidations += 1
        return tick

    async def tick(self, namespace: str) -> int:
        """Return the clock that dates what is computed from now on, without a lease."""
        known, _ = await self._latest_epochs(namespace)
        return max(known.clock, 0)

    def _namespace(self, namespace: str) -> NamespaceEpochs:
        if namespace not in self._epochs and len(self._epochs) >= self._policy.namespaces_max:
            limit = self._policy.namespaces_max
            raise InvalidRequestError("namespace", f"one more than namespaces_max ({limit})")
        return self._epochs.of(namespace)

    def _from_memory(self, key: EntryKey, known: NamespaceEpochs) -> Hit[E] | None:
        resident = self._l1.get(key)
        if resident is None or not self._epochs.is_current(known):
            return None
        entry = resident.entry
        if not isinstance(entry, self._kind):
            return None
        if resident.clock != known.clock:
            if not known.admits(entry.tick, entry.tags):
                self._l1.discard(key)
                return None
            resident.clock = known.clock
        return Hit(entry, HitSource.L1, self._l1.remaining_s(resident), degraded=False)

    async def _checked_memory(self, key: EntryKey) -> Hit[E] | None:
        """Answer from memory after asking the store what was invalidated; if it is down, anyway."""
        if self._l1.get(key) is None:
            return None
        known, asked = await self._latest_epochs(key.namespace)
        resident = self._l1.get(key)
        if resident is None or not isinstance(entry := resident.entry, self._kind):
            return None
        if not known.admits(entry.tick, entry.tags):
            self._l1.discard(key)
            return None
        return Hit(entry, HitSource.L1, self._l1.remaining_s(resident), not asked)

    async def _read(
        self,
        key: EntryKey,
        offer: LeaseOffer | None,
        fits: Callable[[E], bool] = lambda _: True,
    ) -> Hit[E] | Lease | Held:
        """Ask the store; an entry that does not fit is dropped as if it were dead."""
        reject = b""
        while True:
            # The record's time left counts from some moment between now and the reply.
            asked_s = self._l1.now()
            try:
                lookup, known = await self._look_up(key, offer, reject)
            except StoreError:
                self._failed(key.namespace, "lookup")
                raise
            if lookup.record is None:
                if lookup.granted and offer is not None:
                    return Lease(key, offer.token, known.clock, offer.ttl_s)
                return Held(lookup.remaining_s)
            entry = self._decode(key.namespace, lookup.record)
            if entry is not None and known.admits(entry.tick, entry.tags) and fits(entry):
                self._l1.put(key, entry, asked_s + lookup.remaining_s, known.clock)
                return Hit(entry, HitSource.STORE, lookup.remaining_s, degraded=False)
            # Dead, damaged or not wanted: ask again, as if it were not there.
            reject = lookup.record[:HEADER_BYTES]

    async def _look_up(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes
    ) -> tuple[Lookup, NamespaceEpochs]:
        known = self._epochs.of(key.namespace)
        if not self._epochs.is_current(known) or (offer is not None and offer.dated):
            # Whatever was invalidated before this request began is seen by both.
            return await self._epochs.look_up(key, offer, reject)
        lookup = await self._store.lookup(key, offer, reject)
        if lookup.granted:
            # The lease is dated by the store's clock: the feed may be a moment behind.
            await self._epochs.refresh(key.namespace)
        return lookup, known

    def _decode(self, namespace: str, record: bytes) -> E | None:
        try:
            return self._codec.decode(record)
        except RecordError as exc:
            self._failed(namespace, "decode")
            _log.warning("record dropped", extra={"reason": str(exc)})
            return None

    async def _keep(
        self,
        key: EntryKey,
        make: Callable[[int, int], E],
        *,
        tags: tuple[str, ...],
        ttl_s: float,
        lease: Lease | None,
    ) -> tuple[SetStatus, int]:
        """Store the entry that ``make(tick, created_ms)`` returns; say what became of it, and when.

        Its lease ends, and who waits for it gets it.
        """
        known, stored = await self._latest_epochs(key.namespace)
        # A lease's tick is what its caller says it is: never later than the clock.
        tick = known.clock if lease is None else min(lease.tick, known.clock)
        if not known.admits(tick, tags):
            if lease is not None:
                self.leases.release(lease)
            return SetStatus.OVERTAKEN, tick
        entry = make(tick, round(self._wall_clock() * 1000))
        token = b"" if lease is None else lease.token
        expires_s = self._l1.now() + ttl_s
        stored = stored and await self._put(key, entry, ttl_s, token)
        if lease is not None and not stored:
            self.leases.release(lease)
        self.leases.fulfilled(token)
        if not known.admits(tick, tags):
            # Overtaken on its way to the store, where nobody will take it either.
            self.flights.fulfil(key, None)
            return SetStatus.OVERTAKEN, tick
        self._count(key.namespace).writes += 1
        self._l1.put(key, entry, expires_s, known.clock)
        hit = Hit(entry, HitSource.FLIGHT, ttl_s, degraded=not stored)
        # Without a feed, an invalidation that overtook it on its way may not be known here.
        sure = not stored or self._epochs.is_current(known)
        self.flights.fulfil(key, hit if sure else None)
        return SetStatus.STORED if stored else SetStatus.KEPT_LOCALLY, tick

    async def _latest_epochs(self, namespace: str) -> tuple[NamespaceEpochs, bool]:
        try:
            return await self._epochs.refresh(namespace), True
        except StoreError:
            self._failed(namespace, "read_epochs")
            return self._epochs.of(namespace), False

    async def _put(self, key: EntryKey, entry: E, ttl_s: float, token: bytes) -> bool:
        try:
            await self._store.put(key, self._codec.encode(entry), ttl_s, token)
        except StoreError:
            self._failed(key.namespace, "put")
            return False
        return True

    def _ttl_s(self, namespace: str, asked_s: float) -> float:
        """Return a time to live with its jitter; 0 asks for the default."""
        ttl_s = asked_s or self._policy.namespace_ttl_s.get(namespace, self._policy.ttl_s)
        spread = self._policy.ttl_jitter
        return min(ttl_s * random.uniform(1 - spread, 1 + spread), self._policy.ttl_max_s)  # noqa: S311

    def _failed(self, namespace: str, operation: str) -> None:
        self._count(namespace).error(operation)

    def _count(self, namespace: str) -> LayerCounts:
        return self._counts.of(namespace, self._layer)


def count_hit(counts: LayerCounts, answer: Answer | Retrieval) -> None:
    """Count a hit and what it saved."""
    counts.hits += 1
    counts.saved_usd += answer.cost_usd
    counts.saved_s += answer.compute_s
