"""Sidecars' deferred batches without the sidecars: one store, one Anthropic, virtual time."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import pytest

from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.deferred import Deferred
from mge_cache_server.deferred_batches import DeferredBatches
from mge_cache_server.deferred_results import ResultParts, Results
from mge_cache_server.deferred_tickets import Tickets
from mge_cache_server.errors import AskError, UpstreamUnavailableError
from mge_cache_server.generation import CacheUse, Question, Request, Strategy
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.model import Usage
from mge_cache_server.prices import ModelPrice, Prices
from mge_cache_server.slots import Slot
from mge_cache_server.store import LeaseOffer
from mge_cache_server.upstream_batches import BatchAnswer, BatchFailure, BatchResult, BatchSeen
from tests.unit.caches import Cache, lease_of
from tests.unit.scene import StageStore, entry_key, turns
from tests.unit.virtual_time import now, virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence

POLL_S = 30.0
USD = ModelPrice(((-1, 1e6),), ((-1, 1e6),), None, None)
COST_USD = 1.5
"""A token in and two out, at a dollar each, at half the price."""


class Anthropic:
    """Keeps batches, and says of them what the test says. ``down``: nothing is answered."""

    has_key = True

    def __init__(self) -> None:
        self.down = False
        self.sent: dict[str, list[str]] = {}
        self.over: dict[str, list[BatchResult]] = {}
        self.created_s: dict[str, float] = {}
        self.polls = 0
        self.dies_after_sending = False
        self.defect: Exception | None = None

    async def create(self, requests: Sequence[tuple[str, Question]]) -> str:
        if self.defect is not None:
            raise self.defect
        self._answer()
        return await self.take([custom_id for custom_id, _ in requests])

    async def take(self, custom_ids: list[str]) -> str:
        batch_id = f"b{len(self.sent) + 1}"
        self.sent[batch_id], self.created_s[batch_id] = custom_ids, now()
        if self.dies_after_sending:
            await asyncio.get_running_loop().create_future()
        return batch_id

    async def ended(self, batch_id: str) -> bool:
        self.polls += 1
        self._answer()
        return batch_id in self.over

    async def results(self, batch_id: str) -> AsyncGenerator[BatchResult, None]:
        self._answer()
        for result in self.over[batch_id]:
            yield result

    async def recent(self) -> list[BatchSeen]:
        self._answer()
        return [
            BatchSeen(each, self.created_s[each], len(ids), each in self.over)
            for each, ids in self.sent.items()
        ]

    def end(self, batch_id: str = "b1") -> None:
        """End a batch: each request is answered with its custom id."""
        self.over[batch_id] = [
            BatchAnswer(each, f"to {each}", "end_turn", Usage(1, 2)) for each in self.sent[batch_id]
        ]

    def fail(self, error: UpstreamUnavailableError, batch_id: str = "b1") -> None:
        """End a batch: each request has failed."""
        self.over[batch_id] = [BatchFailure(each, error) for each in self.sent[batch_id]]

    def _answer(self) -> None:
        if self.down:
            raise UpstreamUnavailableError("down")


class Desk:
    """One sidecar's part of it. ``die()`` is what SIGKILL does."""

    def __init__(self, data: MemoryStore, anthropic: Anthropic) -> None:
        self.store = StageStore(data.sibling())
        self.store.kind = "redis"
        self.cache = Cache(self.store, now)
        self.anthropic = anthropic
        self.tickets = Tickets(
            self.store.deferred, self.cache.prompts, poll_s=POLL_S, failed=self.cache._failed
        )
        prices = Prices({"*": USD})
        self.counts = BatchCounts(BatchHistograms())
        parts = ResultParts(anthropic, self.cache.prompts, prices, self.tickets, self.counts)
        self.batches = DeferredBatches(
            self.store,
            Results(parts, answer_max_bytes=1000),
            poll_s=POLL_S,
            failed=self.cache._failed,
            wall_clock=now,
        )
        self.deferred = Deferred(
            anthropic,
            self.cache.prompts,
            self.batches,
            self.tickets,
            store=self.store.deferred,
            poll_s=POLL_S,
            failed=self.cache._failed,
            wall_clock=now,
        )

    async def ask(self, *numbers: int) -> list[Slot]:
        """Send a batch of questions, with the leases of their entries."""
        slots = [await self.slot(number) for number in numbers]
        await self.deferred.send(slots)
        await turns()
        return slots

    async def slot(self, number: int) -> Slot:
        lease = lease_of(await self.cache.get(entry_key(number), lease_ttl_s=10.0))
        body = {"model": "m", "max_tokens": 1}
        question = Question(entry_key(number), "m", body, [], None, b"", 0)
        request = Request(question, ("t",), 0.0, CacheUse.USE, Strategy.DEFERRED, f"id {number}")
        slot = Slot(request, gone=lambda: None)
        slot.lease = lease
        self.tickets.open(slot, request.id)
        return slot

    def errors(self) -> dict[str, int]:
        both = (self.cache.counts.total("llm", name).errors for name in ("", "ns"))
        return {name: count for errors in both for name, count in errors.items()}

    async def die(self) -> None:
        """End without a word to the store."""
        self.store.down = True
        await self.deferred.stop()


class Scene:
    """Two sidecars that look after batches."""

    def __init__(self) -> None:
        self.data = MemoryStore(now=now)
        self.anthropic = Anthropic()
        self.one = Desk(self.data, self.anthropic)
        self.other = Desk(self.data, self.anthropic)

    async def close(self) -> None:
        for desk in (self.one, self.other):
            await desk.deferred.stop()
            await desk.cache.prompts.close()


HOUR_S = 3600.0
THEIRS = LeaseOffer(b"t" * 16, 60.0)


def scene(test: Callable[[Scene], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run a test in virtual time, on a scene that is closed after it."""

    @virtual_time
    async def run() -> None:
        made = Scene()
        try:
            await test(made)
        finally:
            await made.close()

    def named() -> None:
        run()

    functools.update_wrapper(named, test)
    del named.__wrapped__  # type: ignore[attr-defined] # pytest would look for fixtures
    return named


async def passes(seconds: float) -> None:
    await asyncio.sleep(seconds)
    await turns()


async def stored(at: Scene, number: int = 1) -> bool:
    return (await at.data.lookup(entry_key(number))).record is not None


async def refused(waiting: Awaitable[object]) -> AskError:
    with pytest.raises(AskError) as caught:
        await waiting
    return caught.value


def failure_of(slot: Slot) -> BaseException | None:
    return slot.answer.exception()
