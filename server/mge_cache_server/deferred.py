"""The strategy ``deferred``: questions go to Anthropic's Message Batches, at half the price.

From the moment at which a batch is sent, its questions belong to it, and to no caller: see
``deferred_batches``. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from mge_cache_server.codec import RecordError
from mge_cache_server.deferred_batches import BEAT_MAX_S, Batch
from mge_cache_server.deferred_codec import BatchRecord, Item, decode_batch
from mge_cache_server.deferred_tickets import new_ticket
from mge_cache_server.errors import AskError, DefectError, StoreError
from mge_cache_server.store_deferred import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mge_cache_server.deferred_batches import DeferredBatches
    from mge_cache_server.deferred_tickets import Tickets
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.slots import Slot
    from mge_cache_server.store_deferred import DeferredStore
    from mge_cache_server.upstream_batches import BatchCalls

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 32
_TRIES: Final = 3
_RETRY_MAX_S: Final = 300.0
_NAME_BYTES: Final = 8


class Deferred:
    """Sends batches, and takes over those whose sidecar is gone. ``start`` and ``stop`` it once."""

    def __init__(
        self,
        calls: BatchCalls,
        prompts: PromptCache,
        batches: DeferredBatches,
        tickets: Tickets,
        *,
        store: DeferredStore,
        poll_s: float,
        failed: Callable[[str, str], None],
        wall_clock: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._prompts = prompts
        self._batches = batches
        self._tickets = tickets
        self._store = store
        self._pause_s = min(poll_s, BEAT_MAX_S)
        self._failed = failed
        self._wall_clock = wall_clock
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for batches that nobody looks after, now and from time to time."""
        self._looking = asyncio.get_running_loop().create_task(self._look_around())

    async def stop(self) -> None:
        """Leave the batches to other sidecars; whoever waits for one gets UNAVAILABLE."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._batches.stop()
        await self._tickets.close()

    def prepare(self, slot: Slot) -> None:
        """See ``Dispatch``: a batch of Anthropic's is never in a hurry."""

    async def send(self, slots: Sequence[Slot]) -> None:
        """Send a batch; its slots are answered later, or refused if Anthropic does not take it."""
        # Whoever has left in the moment since the batch was closed; no longer from here on.
        slots = [slot for slot in slots if slot.is_wanted]
        if not slots:
            return
        name = secrets.token_hex(_NAME_BYTES)
        for slot in slots:
            slot.entrusted_to = name
            if slot.lease is not None:
                self._prompts.leases.let_go(slot.lease)
        batch = await self._made(name, slots)
        await self._batches.keep(batch)
        self._batches.follow(batch)
        try:
            for start in range(0, len(slots), _AT_ONCE):
                some = slots[start : start + _AT_ONCE]
                await asyncio.gather(*map(self._write_tickets, some))
            batch_id = await self._create(batch)
        except AskError as exc:
            await self._batches.give_up(batch, exc)
            return
        except Exception:
            defect = DefectError("internal error; see the sidecar's log")
            await self._batches.give_up(batch, defect)
            raise
        self._batches.sent(batch, batch_id)
        await self._batches.name(batch)
        _log.info("deferred batch sent", extra={"batch": batch_id, "requests": len(slots)})

    async def _write_tickets(self, slot: Slot) -> None:
        await self._tickets.write(slot.question.key.namespace, slot.ids, new_ticket(slot))

    async def _made(self, name: str, slots: Sequence[Slot]) -> Batch:
        ticks: dict[str, int] = {}
        for slot in slots:
            namespace = slot.question.key.namespace
            if slot.lease is None and namespace not in ticks:
                ticks[namespace] = await self._prompts.tick(namespace)
        items = {f"{name}-{number}": slot for number, slot in enumerate(slots)}
        record = BatchRecord(
            round(self._wall_clock() * 1000),
            tuple(_item(custom_id, slot, ticks) for custom_id, slot in items.items()),
        )
        return Batch(
            name,
            record,
            sending=True,
            slots=items,
            open={item.custom_id: item for item in record.items},
        )

    async def _create(self, batch: Batch) -> str:
        requests = [(custom_id, slot.question) for custom_id, slot in batch.slots.items()]
        for _ in range(_TRIES - 1):
            try:
                return await self._calls.create(requests)
            except AskError as exc:
                # Only where Anthropic has said that it did not take it, and when it will.
                if exc.retry_after_s is None:
                    raise
                await asyncio.sleep(min(exc.retry_after_s, _RETRY_MAX_S))
        return await self._calls.create(requests)

    async def _look_around(self) -> None:
        while True:
            if self._calls.has_key:
                try:
                    for name in await self._store.list_batches():
                        if name not in self._batches:
                            await self._take_over(name)
                except StoreError:
                    self._failed("", "list_batches")
            await asyncio.sleep(self._pause_s)

    async def _take_over(self, name: str) -> None:
        if await self._batches.claim(name) is not Claim.OURS:
            return
        stored = await self._store.read_batch(name)
        if stored is None or name in self._batches:
            return
        try:
            record = decode_batch(stored.record)
        except RecordError as exc:
            # A newer sidecar's, perhaps: it may have it.
            self._failed("", "decode")
            _log.warning("deferred batch cannot be read", extra={"reason": str(exc)})
            await self._store.release_batch(name, holder=self._batches.holder)
            return
        _log.info("deferred batch taken over", extra={"requests": len(record.items)})
        self._batches.follow(
            Batch(
                name,
                record,
                batch_id=stored.batch_id,
                stored=True,
                open={item.custom_id: item for item in record.items},
            )
        )


def _item(custom_id: str, slot: Slot, ticks: dict[str, int]) -> Item:
    request, lease = slot.request, slot.lease
    return Item(
        custom_id=custom_id,
        key=slot.question.key,
        model=slot.question.model,
        tags=tuple(slot.tags),
        ttl_s=request.ttl_s,
        cache=request.cache,
        kept=slot.is_kept,
        token=b"" if lease is None else lease.token,
        tick=ticks[slot.question.key.namespace] if lease is None else lease.tick,
        ids=tuple(slot.ids),
    )
