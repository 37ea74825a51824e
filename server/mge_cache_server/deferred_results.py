"""What Anthropic says of a deferred batch, and what becomes of each of its answers.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mge_cache_server import answers
from mge_cache_server.deferred_codec import Ticket, TicketState, failure_of
from mge_cache_server.deferred_tickets import DAY_S, failed_ticket
from mge_cache_server.errors import (
    AskError,
    InvalidRequestError,
    UpstreamUnavailableError,
)
from mge_cache_server.generation import CacheUse, Reply, Strategy
from mge_cache_server.model import Lease, SetStatus
from mge_cache_server.upstream_batches import BatchAnswer, BatchFailure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache_server.batch_counts import BatchCounts
    from mge_cache_server.deferred_batches import Batch
    from mge_cache_server.deferred_codec import Item
    from mge_cache_server.deferred_tickets import Tickets
    from mge_cache_server.prices import Prices
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.upstream_batches import BatchCalls, BatchResult

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 32
_EARLIER_S: Final = 600.0
_LATER_S: Final = 1800.0
"""When a batch may have been created, against the clock of the sidecar that sent it."""
_LEASE_TTL_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class ResultParts:
    """What results need."""

    calls: BatchCalls
    prompts: PromptCache
    prices: Prices
    tickets: Tickets
    counts: BatchCounts


class Results:
    """Reads the results of batches, and keeps them."""

    def __init__(self, parts: ResultParts, *, answer_max_bytes: int) -> None:
        self._calls = parts.calls
        self._prompts = parts.prompts
        self._prices = parts.prices
        self._tickets = parts.tickets
        self._counts = parts.counts
        self._answer_max_bytes = answer_max_bytes

    async def poll(self, batch: Batch, is_ours: Callable[[], Awaitable[bool]]) -> None:
        """Ask for a batch once, and settle its requests if it has ended.

        ``is_ours()`` is awaited between results: reading many takes longer than a claim lasts.
        """
        try:
            if not batch.batch_id:
                await self._find(batch)
            elif await self._calls.ended(batch.batch_id):
                await self._read(batch, is_ours)
        except AskError as exc:
            # It is asked for again. What it costs is still to be had.
            if not batch.failing:
                _log.warning("deferred batch cannot be asked for", extra={"reason": str(exc)})
            batch.failing = True
        else:
            if batch.failing:
                _log.info("deferred batch can be asked for again")
            batch.failing = False

    async def refuse(self, batch: Batch, item: Item, error: AskError) -> None:
        """End a request without an answer."""
        await self._end(batch, item, failed_ticket(_ticket(batch, item), *failure_of(error)))
        if item.token:
            self._prompts.leases.release(_lease(item))
        slot = batch.slots.get(item.custom_id)
        if slot is not None:
            slot.refuse(error)

    async def _read(self, batch: Batch, is_ours: Callable[[], Awaitable[bool]]) -> None:
        some: list[tuple[Item, BatchResult]] = []
        missing = dict(batch.open)
        async with aclosing(self._calls.results(batch.batch_id)) as results:
            async for result in results:
                item = missing.pop(result.custom_id, None)
                if item is None:
                    continue
                some.append((item, result))
                if len(some) == _AT_ONCE:
                    await self._settle_all(batch, some)
                    some.clear()
                    if not await is_ours():
                        return
        await self._settle_all(batch, some)
        for item in missing.values():
            problem = "Anthropic's results have no answer to it"
            await self.refuse(batch, item, UpstreamUnavailableError(problem))

    async def _settle_all(self, batch: Batch, some: list[tuple[Item, BatchResult]]) -> None:
        async with asyncio.TaskGroup() as settling:
            for item, result in some:
                settling.create_task(self._settle(batch, item, result))

    async def _settle(self, batch: Batch, item: Item, result: BatchResult) -> None:
        if isinstance(result, BatchFailure):
            await self.refuse(batch, item, result.error)
            return
        reply = await self._reply(batch, item, result)
        if item.custom_id not in batch.paid:
            self._counts.bought(item.model, reply.usage, reply.cost_usd)
        ticket, ttl_s = await self._keep(batch, item, reply)
        slot = batch.slots.get(item.custom_id)
        if ttl_s is not None:
            await self._end(batch, item, ticket, ttl_s)
        # Later than the cache: whoever asks from now on finds it there.
        if slot is not None:
            slot.settle(reply)

    async def _keep(self, batch: Batch, item: Item, reply: Reply) -> tuple[Ticket, float | None]:
        """Put an answer into the cache; return its ticket, and for how long to keep that.

        None: the store does not take it now. It is read again later.
        """
        namespace, answer = item.key.namespace, answers.entry_answer(reply, item.model)
        first = item.custom_id not in batch.paid
        batch.paid.add(item.custom_id)
        ticket = _ticket(batch, item)
        unkept = _unkept(item, reply, self._answer_max_bytes)
        if unkept:
            if first:
                self._prompts.spent(namespace, answer, priced=reply.priced)
            if item.token:
                self._prompts.leases.release(_lease(item))
            return failed_ticket(ticket, "unknown", unkept), DAY_S
        slot = batch.slots.get(item.custom_id)
        try:
            outcome = await self._prompts.set(
                item.key,
                answer,
                tags=item.tags if slot is None else tuple(slot.tags),
                ttl_s=item.ttl_s,
                lease=_lease(item),
                bought=first,
                priced=reply.priced,
            )
        except InvalidRequestError as exc:
            # One namespace more than this sidecar may have.
            return failed_ticket(ticket, "unknown", f"its answer is not kept: {exc}"), DAY_S
        match outcome.status:
            case SetStatus.STORED:
                return replace(ticket, state=TicketState.KEPT), max(outcome.ttl_s, DAY_S)
            case SetStatus.KEPT_LOCALLY:
                return replace(ticket, state=TicketState.KEPT), None
            case SetStatus.OVERTAKEN:
                problem = "an invalidation overtook its answer: ask again"
            case SetStatus.DISABLED:
                problem = "its answer is not kept: the cache is switched off"
        return failed_ticket(ticket, "unknown", problem), DAY_S

    async def _end(self, batch: Batch, item: Item, ticket: Ticket, ttl_s: float = DAY_S) -> None:
        slot = batch.slots.get(item.custom_id)
        ids = item.ids if slot is None else {**dict.fromkeys(item.ids), **slot.ids}
        await self._tickets.write(item.key.namespace, ids, ticket, ttl_s)
        if batch.open.pop(item.custom_id, None) is not None and not batch.open:
            answered, asked = len(batch.paid), len(batch.record.items)
            outcome = "ok" if answered == asked else "partly" if answered else "failed"
            self._counts.outcomes[Strategy.DEFERRED, outcome] += 1

    async def _reply(self, batch: Batch, item: Item, answer: BatchAnswer) -> Reply:
        await self._prices.prepare(item.model)
        cost_usd = self._prices.batch_cost_usd(item.model, answer.usage)
        return Reply(
            text=answer.text,
            stop_reason=answer.stop_reason,
            usage=answer.usage,
            cost_usd=cost_usd or 0.0,
            priced=cost_usd is not None,
            compute_s=0.0,  # unknown: how long a batch lay there says nothing about an answer
            batch_size=len(batch.record.items),
            strategy=Strategy.DEFERRED,
        )

    async def _find(self, batch: Batch) -> None:
        """Look for a batch whose sender died before it knew Anthropic's id of it.

        Batches have no name at Anthropic, but their requests have: their results tell.
        """
        created_s = batch.record.created_ms / 1000
        waits = False
        for seen in await self._calls.recent():
            if (
                seen.size != len(batch.record.items)
                or not created_s - _EARLIER_S <= seen.created_s <= created_s + _LATER_S
                or seen.batch_id in batch.strangers
            ):
                continue
            if not seen.ended:
                waits = True
            elif await self._is_same(batch, seen.batch_id):
                batch.batch_id, batch.stored = seen.batch_id, False
                batch.poll_at_s = 0.0
                batch.wake.set()
                return
            else:
                batch.strangers.add(seen.batch_id)
        if not waits:
            problem = "the sidecar died before Anthropic had the batch: ask again"
            for item in list(batch.open.values()):
                await self.refuse(batch, item, UpstreamUnavailableError(problem))

    async def _is_same(self, batch: Batch, batch_id: str) -> bool:
        names = {item.custom_id for item in batch.record.items}
        async with aclosing(self._calls.results(batch_id)) as results:
            async for result in results:
                return result.custom_id in names
        return False


def _unkept(item: Item, reply: Reply, max_bytes: int) -> str:
    """Return why an answer is not kept; "" if it is."""
    if item.cache is CacheUse.BYPASS:
        return "its answer is not kept: it was asked for with BYPASS"
    if not answers.may_be_kept(reply, max_bytes=max_bytes):
        return "its answer is not kept: it was not whole, empty or too large"
    return "" if item.kept else "its answer is not kept: the cache has something else there"


def _lease(item: Item) -> Lease:
    """Return what dates an answer; where the request had no lease, its token is that of nobody."""
    return Lease(item.key, item.token, item.tick, _LEASE_TTL_S)


def _ticket(batch: Batch, item: Item) -> Ticket:
    return Ticket(item.key.digest, batch.name, item.cache is not CacheUse.USE)
