"""The streaming batcher: questions in, answers out, Anthropic asked as seldom as it can be.

What a question goes through is here, in order: equal questions under way share a slot; the prompt
cache is asked (and makes one sidecar of many lead, by its lease); what is missing waits in a batch
of its group until that is full or its window is over; a strategy asks Anthropic; the answer reaches
its readers as it arrives, and the cache when it is whole. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mge_cache_server import answers
from mge_cache_server.deferred_tickets import STOPPING
from mge_cache_server.errors import (
    DefectError,
    MgeError,
    UpstreamUnavailableError,
)
from mge_cache_server.generation import CacheUse, Strategy
from mge_cache_server.model import EntryKey, Hit
from mge_cache_server.slots import Reader, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager

    from mge_cache_server.batch_counts import BatchCounts
    from mge_cache_server.batches import Batches
    from mge_cache_server.generation import Completion, Reply, Request
    from mge_cache_server.model import Lease
    from mge_cache_server.prompt_cache import PromptCache

_log = logging.getLogger(__name__)

_LEASE_TTL_S = 10.0
"""Renewed while the answer is computed: so long a sidecar that died holds up the others."""
_HOLD_MAX_S = 86_400.0

_Name = tuple[EntryKey, CacheUse]


class Batcher:
    """Answers questions; waits up to ``wait_s`` where another sidecar has one under way.

    ``deferred(slot, id)`` is told of each deferred request.
    """

    def __init__(
        self,
        prompts: PromptCache,
        batches: Batches,
        counts: BatchCounts,
        *,
        deferred: Callable[[Slot, str], None],
        wait_s: float,
        answer_max_bytes: int,
    ) -> None:
        self._prompts = prompts
        self._batches = batches
        self._counts = counts
        self._deferred = deferred
        self._wait_s = wait_s
        self._answer_max_bytes = answer_max_bytes
        self._slots: dict[_Name, Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def queued(self) -> int:
        """How many questions wait to be sent."""
        return self._batches.queued

    def submit(self, request: Request, wake: Callable[[], None]) -> Reader:
        """Have a question answered; ``wake()`` says that the reader has something to take.

        Raises UpstreamUnavailableError while the sidecar is stopping.
        """
        if self._closing:
            raise UpstreamUnavailableError("the sidecar is stopping")
        slot = self._slots.get(_name(request))
        if slot is None:
            slot = self._lead(request)
        if request.strategy is Strategy.DEFERRED:
            self._deferred(slot, request.id)
        return slot.join(request.tags, wake)

    def close(self) -> None:
        """Take nothing more on, and send what waits, at once."""
        self._closing = True
        self._batches.close()

    async def handed_over(self, timeout_s: float) -> None:
        """Wait until what is deferred is with Anthropic, which takes one call."""
        await self._batches.handed_over(timeout_s)

    async def abort(self) -> None:
        """Give up what is under way; whoever waits gets UpstreamUnavailableError."""
        self.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        await self._batches.abort()

    def _lead(self, request: Request) -> Slot:
        slot = Slot(request, gone=lambda: self._give_up(slot, task))
        task = self._start(self._answer(slot))
        if request.cache is not CacheUse.BYPASS:
            self._slots[_name(request)] = slot

        def ended(_: object) -> None:
            self._forget(slot)
            slot.answer.cancel()
            failure = None if task.cancelled() else task.exception()
            if failure is not None:
                _log.error("internal error", extra={"method": "Generate"}, exc_info=failure)
                slot.fail(DefectError("internal error; see the sidecar's log"))
            slot.fail(_stopping(slot))  # if it has no outcome

        task.add_done_callback(ended)
        return slot

    def _give_up(self, slot: Slot, task: asyncio.Task[None]) -> None:
        # At once: whoever asks now must not join what is about to end.
        self._forget(slot)
        if slot.is_wanted:
            task.cancel()
        # Else the answer is bought: it goes to the cache.

    def _forget(self, slot: Slot) -> None:
        name = _name(slot.request)
        if self._slots.get(name) is slot:
            del self._slots[name]

    async def _answer(self, slot: Slot) -> None:
        try:
            found, lease = await self._look_up(slot)
            if found is not None:
                self._forget(slot)  # whoever comes from now on counts as a look-up of its own
                slot.complete(found)
                return
            slot.lease = lease
            with self._held(lease):
                self._batches.add(slot)
                reply = await slot.answer
                # Whoever comes from now on finds the answer in the cache, or waits for its lease.
                self._forget(slot)
                slot.complete(answers.completion(reply))
                await self._keep(slot, reply, lease)
        except MgeError as exc:
            slot.fail(exc)
        finally:
            if slot.ahead is not None:
                slot.ahead.cancel()

    async def _look_up(self, slot: Slot) -> tuple[Completion | None, Lease | None]:
        if slot.request.cache is not CacheUse.USE:
            return None, None
        deferred = slot.request.strategy is Strategy.DEFERRED
        # Not done if the answer is in memory, else while the store is asked.
        preparing = asyncio.get_running_loop().call_soon(self._batches.prepare, slot)
        try:
            outcome = await self._prompts.get(
                slot.question.key,
                wait_s=_HOLD_MAX_S if deferred else self._wait_s,
                lease_ttl_s=_LEASE_TTL_S,
                dated=True,
            )
        finally:
            preparing.cancel()
        if not isinstance(outcome, Hit):
            if deferred and outcome.in_progress and self._closing:
                raise _stopping(slot)
            return None, outcome.lease
        found = answers.from_cache(outcome)
        # What is no text was stored by somebody else, for somebody else: it stays.
        slot.is_kept = found is not None
        if found is not None:
            self._prompts.shared(slot.question.key.namespace, outcome.entry.answer, slot.joined)
        return found, None

    def _held(self, lease: Lease | None) -> AbstractContextManager[None]:
        """Keep a lease while the answer is computed; without an answer it goes to the next."""
        return nullcontext() if lease is None else self._prompts.leases.kept(lease, _HOLD_MAX_S)

    async def _keep(self, slot: Slot, reply: Reply, lease: Lease | None) -> None:
        request, question = slot.request, slot.question
        answer = answers.entry_answer(reply, question.model)
        namespace = question.key.namespace
        self._prompts.shared(namespace, answer, slot.joined)
        if slot.entrusted_to:
            return  # it is kept and counted already
        self._counts.bought(question.model, reply.usage, reply.cost_usd)
        is_kept = slot.is_kept and answers.may_be_kept(reply, max_bytes=self._answer_max_bytes)
        if request.cache is CacheUse.BYPASS or not is_kept:
            self._prompts.spent(namespace, answer, priced=reply.priced)
            return
        await self._prompts.set(
            question.key,
            answer,
            tags=tuple(slot.tags),
            ttl_s=request.ttl_s,
            lease=lease,
            bought=True,
            priced=reply.priced,
        )

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _stopping(slot: Slot) -> UpstreamUnavailableError:
    if slot.request.strategy is Strategy.DEFERRED:
        return UpstreamUnavailableError(STOPPING)
    return UpstreamUnavailableError("the sidecar is stopping")


def _name(request: Request) -> _Name:
    return request.question.key, request.cache
