"""The prompt cache: memory, then the store, then one computation for all who ask.

Everything a GetPrompt goes through after the wire is here, in the order in which it happens.
Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache_server import codec
from mge_cache_server.errors import InvalidRequestError, StoreError
from mge_cache_server.flights import Flights, Held
from mge_cache_server.leases import Leases
from mge_cache_server.model import (
    LLM_LAYER,
    Answer,
    Entry,
    EntryKey,
    Hit,
    HitSource,
    Lease,
    Miss,
    SetOutcome,
    SetStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.counts import Counts, LayerCounts
    from mge_cache_server.epochs import Epochs, NamespaceEpochs
    from mge_cache_server.l1 import L1Cache
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


class PromptCache:
    """Answers look-ups, stores answers, invalidates."""

    def __init__(
        self,
        *,
        store: Store,
        l1: L1Cache,
        epochs: Epochs,
        counts: Counts,
        policy: CachePolicy,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._l1 = l1
        self._epochs = epochs
        self._counts = counts
        self._policy = policy
        self._wall_clock = wall_clock
        self.leases = Leases(store, failed=self._failed)
        self.flights = Flights(
            self._read,
            release=self.leases.release,
            local_tick=lambda namespace: max(epochs.of(namespace).clock, 0),
        )
        self.leases.attach(self.flights)

    async def get(
        self, key: EntryKey, *, wait_s: float, lease_ttl_s: float, asks_again: bool = False
    ) -> Hit | Miss:
        """Look an answer up; see ``GetPrompt`` for what a miss brings."""
        known = self._namespace(key.namespace)
        counts = self._counts.of(key.namespace, LLM_LAYER)
        if not self._policy.enabled:
            counts.misses += 1
            return Miss()
        outcome: Hit | Miss | None = self._from_memory(key, known)
        if outcome is None:
            outcome = await self._checked_memory(key)
        if outcome is None:
            outcome = await self.flights.join(key, wait_s=wait_s, lease_ttl_s=lease_ttl_s)
        if isinstance(outcome, Hit):
            _count_hit(counts, outcome.entry.answer)
        elif not (outcome.in_progress and asks_again):
            counts.misses += 1
        return outcome

    async def peek(self, key: EntryKey) -> Hit | Miss:
        """Look an answer up without a lease, without waiting and without counting it."""
        known = self._namespace(key.namespace)
        if not self._policy.enabled:
            return Miss()
        found = self._from_memory(key, known) or await self._checked_memory(key)
        return found or await self._peek_store(key)

    async def set(
        self,
        key: EntryKey,
        answer: Answer,
        *,
        tags: tuple[str, ...],
        ttl_s: float,
        lease: Lease | None,
        bought: bool,
        priced: bool,
    ) -> SetOutcome:
        """Store an answer; ``ttl_s`` 0 means the default. See ``SetPrompt``.

        ``bought`` is false for an answer that was paid for elsewhere; ``priced`` is false if the
        answer's cost is not known.
        """
        if not self._policy.enabled:
            return SetOutcome(SetStatus.DISABLED, 0.0, answer.cost_usd)
        self._namespace(key.namespace)
        token = b"" if lease is None else lease.token
        if self._counts.is_new_payment(token):
            counts = self._counts.of(key.namespace, LLM_LAYER)
            counts.spent_usd += answer.cost_usd if bought else 0.0
            if not priced:
                counts.unpriced_writes += 1
                self._counts.unpriced(answer.model)
        ttl_s = self._jittered(ttl_s or self._default_ttl_s(key.namespace))
        status = await self._store_answer(key, answer, tags, ttl_s, lease)
        if status is SetStatus.OVERTAKEN:
            return SetOutcome(status, 0.0, answer.cost_usd)
        return SetOutcome(status, ttl_s, answer.cost_usd)

    async def invalidate(self, namespace: str, tag: str) -> int:
        """Make everything with ``tag`` unreachable; returns the tick. Raises StoreError."""
        self._namespace(namespace)
        counts = self._counts.of(namespace, LLM_LAYER)
        try:
            tick = await self._epochs.advance(namespace, tag)
        except StoreError:
            counts.error("advance")
            raise
        counts.invalidations += 1
        return tick

    async def close(self) -> None:
        """End all waits and give all leases back."""
        await self.flights.close()
        await self.leases.close()

    def _namespace(self, namespace: str) -> NamespaceEpochs:
        if namespace not in self._epochs and len(self._epochs) >= self._policy.namespaces_max:
            limit = self._policy.namespaces_max
            raise InvalidRequestError("namespace", f"one more than namespaces_max ({limit})")
        return self._epochs.of(namespace)

    def _from_memory(self, key: EntryKey, known: NamespaceEpochs) -> Hit | None:
        resident = self._l1.get(key)
        if resident is None or not self._epochs.is_current(known):
            return None
        if resident.clock != known.clock:
            if not known.admits(resident.entry.tick, resident.entry.tags):
                self._l1.discard(key)
                return None
            resident.clock = known.clock
        return Hit(resident.entry, HitSource.L1, self._l1.remaining_s(resident), degraded=False)

    async def _checked_memory(self, key: EntryKey) -> Hit | None:
        """Answer from memory after asking the store what was invalidated; if it is down, anyway."""
        resident = self._l1.get(key)
        if resident is None:
            return None
        known, asked = await self._latest_epochs(key.namespace)
        resident = self._l1.get(key)
        if resident is None:
            return None
        if not known.admits(resident.entry.tick, resident.entry.tags):
            self._l1.discard(key)
            return None
        return Hit(resident.entry, HitSource.L1, self._l1.remaining_s(resident), not asked)

    async def _peek_store(self, key: EntryKey) -> Hit | Miss:
        try:
            outcome = await self._read(key, None)
        except StoreError:
            return Miss(degraded=True)
        if isinstance(outcome, Hit):
            return outcome
        return Miss(in_progress=isinstance(outcome, Held) and outcome.remaining_s > 0)

    async def _read(self, key: EntryKey, offer: LeaseOffer | None) -> Hit | Lease | Held:
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
            if entry is not None and known.admits(entry.tick, entry.tags):
                self._l1.put(key, entry, asked_s + lookup.remaining_s, known.clock)
                return Hit(entry, HitSource.STORE, lookup.remaining_s, degraded=False)
            # Dead or damaged: ask again, as if it were not there.
            reject = lookup.record[: codec.HEADER_BYTES]

    async def _look_up(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes
    ) -> tuple[Lookup, NamespaceEpochs]:
        known = self._epochs.of(key.namespace)
        if not self._epochs.is_current(known):
            # Side by side: it takes one round trip, and whatever was invalidated before this
            # request began is seen by both.
            return await asyncio.gather(
                self._store.lookup(key, offer, reject), self._epochs.refresh(key.namespace)
            )
        lookup = await self._store.lookup(key, offer, reject)
        if lookup.granted:
            # The lease is dated by the store's clock: the feed may be a moment behind.
            await self._epochs.refresh(key.namespace)
        return lookup, known

    def _decode(self, namespace: str, record: bytes) -> Entry | None:
        try:
            return codec.decode(record)
        except codec.RecordError as exc:
            self._failed(namespace, "decode")
            _log.warning("record dropped", extra={"reason": str(exc)})
            return None

    async def _store_answer(
        self,
        key: EntryKey,
        answer: Answer,
        tags: tuple[str, ...],
        ttl_s: float,
        lease: Lease | None,
    ) -> SetStatus:
        known, stored = await self._latest_epochs(key.namespace)
        # A lease's tick is what its caller says it is: never later than the clock.
        tick = known.clock if lease is None else min(lease.tick, known.clock)
        if not known.admits(tick, tags):
            if lease is not None:
                self.leases.release(lease)
            return SetStatus.OVERTAKEN
        entry = Entry(answer, tick, round(self._wall_clock() * 1000), tags)
        token = b"" if lease is None else lease.token
        expires_s = self._l1.now() + ttl_s
        stored = stored and await self._put(key, entry, ttl_s, token)
        if lease is not None and not stored:
            self.leases.release(lease)
        self.leases.fulfilled(token)
        if not known.admits(tick, tags):
            # Overtaken on its way to the store, where nobody will take it either.
            self.flights.fulfil(key, None)
            return SetStatus.OVERTAKEN
        self._counts.of(key.namespace, LLM_LAYER).writes += 1
        self._l1.put(key, entry, expires_s, known.clock)
        hit = Hit(entry, HitSource.FLIGHT, ttl_s, degraded=not stored)
        # Without a feed, an invalidation that overtook it on its way may not be known here.
        sure = not stored or self._epochs.is_current(known)
        self.flights.fulfil(key, hit if sure else None)
        return SetStatus.STORED if stored else SetStatus.KEPT_LOCALLY

    async def _latest_epochs(self, namespace: str) -> tuple[NamespaceEpochs, bool]:
        try:
            return await self._epochs.refresh(namespace), True
        except StoreError:
            self._failed(namespace, "read_epochs")
            return self._epochs.of(namespace), False

    async def _put(self, key: EntryKey, entry: Entry, ttl_s: float, token: bytes) -> bool:
        try:
            await self._store.put(key, codec.encode(entry), ttl_s, token)
        except StoreError:
            self._failed(key.namespace, "put")
            return False
        return True

    def _default_ttl_s(self, namespace: str) -> float:
        return self._policy.namespace_ttl_s.get(namespace, self._policy.ttl_s)

    def _jittered(self, ttl_s: float) -> float:
        spread = self._policy.ttl_jitter
        return min(ttl_s * random.uniform(1 - spread, 1 + spread), self._policy.ttl_max_s)  # noqa: S311

    def _failed(self, namespace: str, operation: str) -> None:
        self._counts.of(namespace, LLM_LAYER).error(operation)


def _count_hit(counts: LayerCounts, answer: Answer) -> None:
    counts.hits += 1
    counts.saved_usd += answer.cost_usd
    counts.saved_s += answer.compute_s
