"""Deferred batches under way: each is looked after by one sidecar until its answers are kept.

That sidecar has a claim on the batch in the store, which it prolongs at each beat. It asks
Anthropic for the batch, keeps the leases of its entries meanwhile (whoever asks the same waits),
and puts the answers into the cache, whether anybody waits or not. If it dies, another takes over.
What the store does not take is kept in memory until it does. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mge_cache_server.deferred_codec import encode_batch
from mge_cache_server.deferred_tickets import STOPPING
from mge_cache_server.errors import (
    AskError,
    DefectError,
    StoreError,
    UpstreamUnavailableError,
)
from mge_cache_server.generation import DEFERRED_MAX_S
from mge_cache_server.keys import TOKEN_BYTES
from mge_cache_server.store import LeaseOffer
from mge_cache_server.store_deferred import Claim, StoredBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.deferred_codec import BatchRecord, Item
    from mge_cache_server.deferred_results import Results
    from mge_cache_server.slots import Slot
    from mge_cache_server.store import Store

_log = logging.getLogger(__name__)

BEAT_MAX_S: Final = 10.0
_BEATS_PER_CLAIM: Final = 3
_CLAIM_MIN_S: Final = 5.0
LEASE_S: Final = 1800.0
"""How long the entries of a batch stay reserved if nobody looks after it: a long restart."""
_RENEW_S: Final = 600.0
_RENEWALS_AT_ONCE: Final = 32


@dataclass(slots=True)
class Batch:
    """A batch, with those who wait for it here. ``open``: what has no outcome yet."""

    name: str
    record: BatchRecord
    batch_id: str = ""
    stored: bool = False
    sending: bool = False
    slots: dict[str, Slot] = field(default_factory=dict)
    open: dict[str, Item] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)
    """Those whose cost has been counted."""
    strangers: set[str] = field(default_factory=set)
    """Anthropic's ids of batches that might have been this one, and are not."""
    failing: bool = False
    """Whether the last poll failed."""
    poll_at_s: float = 0.0
    claim_at_s: float = 0.0
    renew_at_s: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class DeferredBatches:
    """Looks after batches. ``wall_clock`` gives seconds since 1970."""

    def __init__(
        self,
        store: Store,
        results: Results,
        *,
        poll_s: float,
        failed: Callable[[str, str], None],
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._results = results
        self._poll_s = poll_s
        self._beat_s = min(poll_s, BEAT_MAX_S)
        self._claim_s = max(self._beat_s * _BEATS_PER_CLAIM, _CLAIM_MIN_S)
        self._failed = failed
        self._wall_clock = wall_clock
        self._following: dict[str, tuple[Batch, asyncio.Task[None]]] = {}
        self._closing = False
        self.holder = secrets.token_bytes(TOKEN_BYTES)

    def __contains__(self, name: object) -> bool:
        """Whether a batch is looked after, or waited for, here."""
        return name in self._following

    def __len__(self) -> int:
        """Return how many batches are under way here."""
        return len(self._following)

    @property
    def requests(self) -> int:
        """How many requests of them have no outcome yet."""
        return sum(len(batch.open) for batch, _ in self._following.values())

    async def claim(self, name: str) -> Claim:
        """Take a batch that nobody looks after, or keep it; raises StoreError."""
        return await self._store.deferred.claim_batch(
            name, holder=self.holder, claim_s=self._claim_s
        )

    def follow(self, batch: Batch) -> None:
        """Look after a batch from now on; ``sending``: it is not to be asked for yet."""
        task = asyncio.get_running_loop().create_task(self._follow(batch))
        self._following[batch.name] = batch, task

        def ended(_: object) -> None:
            del self._following[batch.name]
            failure = None if task.cancelled() else task.exception()
            if failure is not None:
                _log.error("internal error", extra={"method": "Generate"}, exc_info=failure)
                _refuse(batch, DefectError("internal error; see the sidecar's log"))

        task.add_done_callback(ended)

    def sent(self, batch: Batch, batch_id: str) -> None:
        """Take note that Anthropic has it."""
        batch.batch_id, batch.sending = batch_id, False
        batch.poll_at_s = asyncio.get_running_loop().time() + self._poll_s
        batch.wake.set()

    async def give_up(self, batch: Batch, error: AskError) -> None:
        """Refuse all that have no outcome yet."""
        for item in list(batch.open.values()):
            await self._results.refuse(batch, item, error)
        batch.sending = False
        batch.wake.set()

    async def keep(self, batch: Batch) -> None:
        """Write a batch into the store; where that fails it is counted, and tried again later."""
        stored = StoredBatch(encode_batch(batch.record), batch.batch_id)
        try:
            await self._store.deferred.put_batch(
                batch.name,
                stored,
                ttl_s=self._left_s(batch),
                holder=self.holder,
                claim_s=self._claim_s,
            )
            # While it was written, Anthropic may have got it.
            batch.stored = stored.batch_id == batch.batch_id
        except StoreError:
            self._failed("", "put_batch")

    async def name(self, batch: Batch) -> None:
        """Write Anthropic's id of a batch into the store, as ``keep``."""
        try:
            batch.stored = batch.stored and await self._store.deferred.name_batch(
                batch.name, batch.batch_id
            )
        except StoreError:
            self._failed("", "name_batch")
            batch.stored = False

    async def hold_leases(self, batch: Batch) -> None:
        """Keep the entries of a batch reserved, so that nobody else asks for them."""
        held = [item for item in batch.open.values() if item.token]
        for start in range(0, len(held), _RENEWALS_AT_ONCE):
            some = held[start : start + _RENEWALS_AT_ONCE]
            if not all(await asyncio.gather(*map(self._hold_lease, some))):
                return  # the store is away: again at the next beat
        batch.renew_at_s = asyncio.get_running_loop().time() + _RENEW_S

    async def stop(self) -> None:
        """Leave all batches to other sidecars; whoever waits here is told so."""
        self._closing = True
        following = list(self._following.values())
        for _, task in following:
            task.cancel()
        if following:
            await asyncio.wait([task for _, task in following])
        for batch, _ in following:
            goes_on = batch.stored and self._store.kind != "memory"
            lost = "the sidecar is stopping; no store keeps its deferred batches: ask again"
            _refuse(batch, UpstreamUnavailableError(STOPPING if goes_on else lost))
            if batch.stored:
                try:
                    await self._store.deferred.release_batch(batch.name, holder=self.holder)
                except StoreError:
                    self._failed("", "release_batch")  # it ends by itself

    async def _follow(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()
        while batch.open:
            if not batch.sending:
                _let_callers_go(batch)
            if await self.is_ours(batch):
                if loop.time() >= batch.renew_at_s:
                    await self.hold_leases(batch)
                if not batch.sending and loop.time() >= batch.poll_at_s:
                    batch.poll_at_s = loop.time() + self._poll_s
                    await self._results.poll(batch, lambda: self.is_ours(batch))
            if batch.open and self._left_s(batch) <= 1.0:
                await self.give_up(batch, UpstreamUnavailableError("no answer within two days"))
            if batch.open:
                await self._pause(batch)
        while not await self._end(batch):
            await self._pause(batch)

    async def _pause(self, batch: Batch) -> None:
        try:
            async with asyncio.timeout(self._beat_s):
                await batch.wake.wait()
                batch.wake.clear()
        except TimeoutError:
            return

    async def is_ours(self, batch: Batch) -> bool:
        """Prolong the claim, if it is time to. False: another sidecar looks after the batch."""
        loop = asyncio.get_running_loop()
        if not batch.stored:
            await self.keep(batch)
            batch.claim_at_s = loop.time() + self._beat_s
            return True
        if loop.time() < batch.claim_at_s:
            return True
        try:
            claim = await self.claim(batch.name)
        except StoreError:
            # Nobody else can have taken it as long as the store is away.
            self._failed("", "claim_batch")
            return True
        if claim is Claim.THEIRS:
            return False
        batch.claim_at_s = loop.time() + self._beat_s
        if claim is Claim.GONE:
            # The store has lost it; or another sidecar has ended it, and then its answers are
            # read again for those who wait here.
            await self.keep(batch)
        return True

    async def _hold_lease(self, item: Item) -> bool:
        try:
            if not await self._store.renew_lease(item.key, item.token, LEASE_S):
                # It has expired: take it again, if nobody else has.
                await self._store.lookup(item.key, LeaseOffer(item.token, LEASE_S))
        except StoreError:
            self._failed(item.key.namespace, "renew_lease")
            return False
        return True

    async def _end(self, batch: Batch) -> bool:
        if not batch.stored:
            return True
        try:
            await self._store.deferred.end_batch(batch.name)
        except StoreError:
            self._failed("", "end_batch")
            return False
        return True

    def _left_s(self, batch: Batch) -> float:
        left_s = batch.record.created_ms / 1000 + DEFERRED_MAX_S - self._wall_clock()
        return max(1.0, min(left_s, DEFERRED_MAX_S))


def _let_callers_go(batch: Batch) -> None:
    """Forget those who have left, and their prompts; what they wanted of the answer stays."""
    for custom_id, slot in list(batch.slots.items()):
        if not slot.is_wanted:
            del batch.slots[custom_id]
            item = batch.open.get(custom_id)
            if item is not None:
                ids = tuple(dict.fromkeys((*item.ids, *slot.ids)))
                batch.open[custom_id] = replace(item, tags=tuple(slot.tags), ids=ids)


def _refuse(batch: Batch, error: AskError) -> None:
    for slot in batch.slots.values():
        slot.refuse(error)
