"""Questions that wait to be sent, in batches of those that agree in all but their messages.

A batch closes when it is full, or when its window is over. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from mge_cache_server.errors import AskError, DefectError, QueueFullError
from mge_cache_server.generation import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mge_cache_server.batch_counts import BatchCounts
    from mge_cache_server.limiter import Limiter
    from mge_cache_server.slots import Slot

_log = logging.getLogger(__name__)

BATCH_BYTES_MAX: Final = 64 << 20
"""Questions of a batch together. Anthropic takes 256 MB of deferred ones; to write so much at once
would also hold up everybody else."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """What an operator decides: how long and how far a batch fills, by strategy; the queue's bound.

    ``eager``: a question that is alone in its group, with nothing of it under way, does not wait.
    """

    window_s: Mapping[Strategy, float]
    batch_max: Mapping[Strategy, int]
    eager: bool
    queue_max: int


class Dispatch(Protocol):
    """A way to ask Anthropic."""

    def prepare(self, slot: Slot) -> None:
        """Get ready to send this slot alone, at once, if it turns out that it has to be."""

    async def send(self, slots: Sequence[Slot]) -> None:
        """Answer each slot, refuse it, or see to it that it is answered later (``entrusted_to``).

        Those whose ``answer`` is cancelled are not wanted.
        """


@dataclass(slots=True)
class _Batch:
    slots: dict[Slot, float] = field(default_factory=dict)
    """With the time from which each waits."""
    size_bytes: int = 0
    alarm: asyncio.TimerHandle | None = None
    """None: it does not wait."""


_Group = tuple[Strategy, bytes]


class Batches:
    """Fills batches and has them sent."""

    def __init__(
        self,
        strategies: Mapping[Strategy, Dispatch],
        *,
        limiter: Limiter,
        policy: BatchPolicy,
        counts: BatchCounts,
    ) -> None:
        self._strategies = strategies
        self._limiter = limiter
        self._policy = policy
        self._counts = counts
        self._filling: dict[_Group, _Batch] = {}
        self._under_way: dict[_Group, int] = {}
        self._sending: dict[asyncio.Task[None], Strategy] = {}
        self._closing = False

    @property
    def queued(self) -> int:
        """How many questions wait to be sent."""
        return sum(len(batch.slots) for batch in self._filling.values()) + self._limiter.waiting

    def add(self, slot: Slot) -> None:
        """Let a question wait for its batch to close; raises QueueFullError."""
        policy, strategy = self._policy, slot.request.strategy
        if self.queued >= policy.queue_max:
            self._counts.rejected += 1
            pause_s = max(self._limiter.pause_s, policy.window_s[strategy], 1.0)
            raise QueueFullError(f"{policy.queue_max} requests wait already", retry_after_s=pause_s)
        group = _group(slot)
        batch = self._filling.get(group)
        if batch is not None and batch.size_bytes + slot.question.size_bytes > BATCH_BYTES_MAX:
            self._close_batch(group)
            batch = None
        if batch is None:
            batch = self._filling[group] = _Batch()
            window_s = self._window_s(group)
            if window_s > 0:
                loop = asyncio.get_running_loop()
                batch.alarm = loop.call_later(window_s, self._close_batch, group)
        batch.slots[slot] = asyncio.get_running_loop().time()
        batch.size_bytes += slot.question.size_bytes
        slot.answer.add_done_callback(lambda _: self._leave(group, batch, slot))
        is_full = len(batch.slots) >= policy.batch_max[strategy]
        if is_full or batch.alarm is None or self._closing:
            self._close_batch(group)

    def prepare(self, slot: Slot) -> None:
        """Get ready to send a question that will not wait, if it has to be sent at all."""
        group = _group(slot)
        if self._window_s(group) == 0 and group not in self._filling:
            self._strategies[group[0]].prepare(slot)

    def close(self) -> None:
        """Send what waits, at once, and from now on everything as it comes."""
        self._closing = True
        for group in list(self._filling):
            self._close_batch(group)

    async def handed_over(self, timeout_s: float) -> None:
        """Wait until what is deferred is with Anthropic."""
        deferred = [task for task, way in self._sending.items() if way is Strategy.DEFERRED]
        if deferred:
            await asyncio.wait(deferred, timeout=timeout_s)

    async def abort(self) -> None:
        """Give up what is under way."""
        self._closing = True
        while self._sending:
            for task in self._sending:
                task.cancel()
            await asyncio.wait(self._sending)

    def _window_s(self, group: _Group) -> float:
        if self._policy.eager and group not in self._under_way:
            return 0.0
        return self._policy.window_s[group[0]]

    def _leave(self, group: _Group, batch: _Batch, slot: Slot) -> None:
        """Take a question out that nobody waits for any more, if it has not been sent."""
        if self._filling.get(group) is batch:
            if batch.slots.pop(slot, None) is not None:
                batch.size_bytes -= slot.question.size_bytes
            if not batch.slots:
                self._close_batch(group)

    def _close_batch(self, group: _Group) -> None:
        batch = self._filling.pop(group)
        if batch.alarm is not None:
            batch.alarm.cancel()
        slots = [slot for slot in batch.slots if slot.is_wanted]
        if slots:
            now_s = asyncio.get_running_loop().time()
            self._counts.sent(group[0], [now_s - batch.slots[slot] for slot in slots])
            self._under_way[group] = self._under_way.get(group, 0) + 1
            sending = asyncio.get_running_loop().create_task(self._send(group, slots))
            self._sending[sending] = group[0]
            sending.add_done_callback(self._sent_off)

    async def _send(self, group: _Group, slots: Sequence[Slot]) -> None:
        try:
            await self._strategies[group[0]].send(slots)
        except AskError as exc:
            for slot in slots:
                slot.refuse(exc)
        except Exception:
            for slot in slots:
                slot.refuse(DefectError("internal error; see the sidecar's log"))
            raise
        finally:
            self._under_way[group] -= 1
            if not self._under_way[group]:
                del self._under_way[group]
            for slot in slots:
                if not slot.entrusted_to:
                    # If a strategy has left it open.
                    slot.refuse(DefectError("internal error; see the sidecar's log"))
            if not any(slot.entrusted_to for slot in slots):
                self._counts.outcomes[group[0], _outcome(slots)] += 1

    def _sent_off(self, sending: asyncio.Task[None]) -> None:
        del self._sending[sending]
        failure = None if sending.cancelled() else sending.exception()
        if failure is not None:
            _log.error("internal error", extra={"method": "Generate"}, exc_info=failure)


def _group(slot: Slot) -> _Group:
    # What Anthropic answers later need not agree in anything.
    strategy = slot.request.strategy
    return strategy, b"" if strategy is Strategy.DEFERRED else slot.question.group


def _outcome(slots: Sequence[Slot]) -> str:
    if all(slot.answer.cancelled() for slot in slots):
        return "cancelled"
    wanted = [slot for slot in slots if not slot.answer.cancelled()]
    answered = sum(slot.answer.exception() is None for slot in wanted)
    if answered == len(wanted):
        return "ok"
    return "partly" if answered else "failed"
