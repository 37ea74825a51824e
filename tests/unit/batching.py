"""The whole batcher in virtual time: on a real prompt cache, before a dictated Anthropic."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.batcher import Batcher
from mge_cache_server.batches import Batches, BatchPolicy
from mge_cache_server.fan_out import FanOut
from mge_cache_server.generation import Completion, Strategy
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.merge_call import Merge
from mge_cache_server.metrics_batcher import BatchHistograms
from tests.unit.caches import Cache
from tests.unit.dictated import DictatedUpstream, prices
from tests.unit.scene import StageStore, turns
from tests.unit.virtual_time import now

if TYPE_CHECKING:
    from mge_cache_server.errors import MgeError
    from mge_cache_server.generation import Request

WINDOW_S = 0.5


@dataclass
class Caller:
    """Reads what it is told to read. ``texts`` has what it saw, by restart."""

    request: Request
    reader: Any = None
    texts: list[str] = field(default_factory=lambda: [""])
    outcome: Completion | MgeError | None = None
    left: bool = False
    woken: bool = False

    @property
    def prompt(self) -> str:
        return self.request.question.prompt or ""

    @property
    def waits(self) -> bool:
        """Whether it still wants something."""
        return not self.left and self.outcome is None

    def wake(self) -> None:
        self.woken = True

    def read(self) -> None:
        if not self.waits or not self.woken:
            return
        self.woken = False
        progress = self.reader.take()
        if progress.restarted:
            self.texts.append("")
        self.texts[-1] += progress.text
        if progress.outcome is not None:
            self.outcome = progress.outcome
            self.reader.leave()

    def leave(self) -> None:
        if self.waits:
            self.left = True
            self.reader.leave()


class Batching:
    """A sidecar's batcher, with all its callers."""

    def __init__(
        self, *, calls_max: int = 32, queue_max: int = 100, batch_max: int = 3, eager: bool = False
    ) -> None:
        self.cache = Cache(StageStore(MemoryStore(now=now)), now)
        self.upstream = DictatedUpstream(calls_max)
        self.counts = BatchCounts(BatchHistograms())
        upstream: Any = self.upstream
        fan_out = FanOut(upstream, prices(), now=now)
        merge = Merge(upstream, prices(), fan_out, self.counts)
        self.batches = Batches(
            {Strategy.FAN_OUT: fan_out, Strategy.MERGE: merge},
            limiter=self.upstream.limiter,
            policy=BatchPolicy(
                window_s=dict.fromkeys(Strategy, WINDOW_S),
                batch_max=dict.fromkeys(Strategy, batch_max),
                eager=eager,
                queue_max=queue_max,
            ),
            counts=self.counts,
        )
        self.batcher = Batcher(
            self.cache.prompts,
            self.batches,
            self.counts,
            deferred=lambda *_: None,
            wait_s=5.0,
            answer_max_bytes=1 << 20,
        )
        self.callers: list[Caller] = []

    async def connect(self) -> None:
        self.cache.epochs.of("ns")
        await self.cache.connect()

    def submit(self, request: Request) -> Caller:
        caller = Caller(request)
        caller.reader = self.batcher.submit(request, caller.wake)
        self.callers.append(caller)
        return caller

    async def sent(self) -> None:
        """Let the window pass."""
        await asyncio.sleep(WINDOW_S + 0.01)
        await turns()

    def check_nothing_leaks(self) -> None:
        limiter = self.upstream.limiter
        assert self.batcher._slots == {}
        assert self.batcher._tasks == set()
        assert (self.batches._filling, self.batches._under_way) == ({}, {})
        assert self.batches._sending == {}
        assert (limiter.in_flight, limiter.waiting, self.batcher.queued) == (0, 0, 0)
        assert self.cache.parts.leases._held == {}
        assert self.cache.store.data._data.leases == {}
        assert self.upstream.live == []
        assert len(asyncio.all_tasks()) == 1
