"""The prompt cache: what an LLM answered, found again by the same prompt.

What a GetPrompt goes through after the wire is here, in the order in which it happens; what it has
in common with the RAG cache is in ``entry_cache``. Belongs to the event loop's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache_server import codec
from mge_cache_server.entry_cache import EntryCache, count_hit
from mge_cache_server.errors import StoreError
from mge_cache_server.flights import Held
from mge_cache_server.model import LLM_LAYER, Answer, Entry, Hit, Miss, SetOutcome, SetStatus

if TYPE_CHECKING:
    from mge_cache_server.entry_cache import CachePolicy, Parts
    from mge_cache_server.model import EntryKey, Lease


class PromptCache(EntryCache[Entry]):
    """Answers look-ups, stores answers, invalidates."""

    def __init__(self, parts: Parts, *, policy: CachePolicy) -> None:
        super().__init__(parts, layer=LLM_LAYER, kind=Entry, codec=codec, policy=policy)

    async def get(
        self,
        key: EntryKey,
        *,
        wait_s: float,
        lease_ttl_s: float,
        asks_again: bool = False,
        dated: bool = False,
    ) -> Hit[Entry] | Miss:
        """Look an answer up; see ``GetPrompt`` for what a miss brings.

        ``dated``: a miss takes one round trip to the store in place of two, and a hit a little
        longer (see ``LeaseOffer``).
        """
        known = self._namespace(key.namespace)
        counts = self._count(key.namespace)
        if not self._policy.enabled:
            counts.misses += 1
            return Miss()
        outcome: Hit[Entry] | Miss | None = self._from_memory(key, known)
        if outcome is None:
            outcome = await self._checked_memory(key)
        if outcome is None:
            outcome = await self.flights.join(
                key, wait_s=wait_s, lease_ttl_s=lease_ttl_s, dated=dated
            )
        if isinstance(outcome, Hit):
            count_hit(counts, outcome.entry.answer)
        elif not (outcome.in_progress and asks_again):
            counts.misses += 1
        return outcome

    async def peek(self, key: EntryKey) -> Hit[Entry] | Miss:
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
        if self._counts.is_new_payment(b"" if lease is None else lease.token):
            self._count_cost(key.namespace, answer, bought=bought, priced=priced)
        ttl_s = self._ttl_s(key.namespace, ttl_s)
        status, _ = await self._keep(
            key,
            lambda tick, created_ms: Entry(answer, tick, created_ms, tags),
            tags=tags,
            ttl_s=ttl_s,
            lease=lease,
        )
        return SetOutcome(status, 0.0 if status is SetStatus.OVERTAKEN else ttl_s, answer.cost_usd)

    def shared(self, namespace: str, answer: Answer, callers: int) -> None:
        """Count callers who got an answer that another one was computing, as hits."""
        counts = self._count(namespace)
        for _ in range(callers):
            count_hit(counts, answer)

    def spent(self, namespace: str, answer: Answer, *, priced: bool) -> None:
        """Count what an answer cost that is not stored."""
        self._count_cost(namespace, answer, bought=True, priced=priced)

    async def _peek_store(self, key: EntryKey) -> Hit[Entry] | Miss:
        try:
            outcome = await self._read(key, None)
        except StoreError:
            return Miss(degraded=True)
        if isinstance(outcome, Hit):
            return outcome
        return Miss(in_progress=isinstance(outcome, Held) and outcome.remaining_s > 0)

    def _count_cost(self, namespace: str, answer: Answer, *, bought: bool, priced: bool) -> None:
        counts = self._count(namespace)
        if bought:
            counts.spent_usd += answer.cost_usd
            counts.computed_s += answer.compute_s
        if not priced:
            counts.unpriced_writes += 1
            self._counts.unpriced(answer.model)
