"""Two sidecars on one store, each on a line of its own, and the model beside them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import Entry, Hit, Miss
from mge_cache_server.store import FeedEvent, Invalidated
from tests.unit.caches import FEED_TIMEOUT_S, Cache, make_policy
from tests.unit.coherence import (
    Granted,
    Invalidation,
    LookUp,
    Model,
)
from tests.unit.lines import LineStore
from tests.unit.scene import turns
from tests.unit.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


T = TypeVar("T")


class TwoSidecars(RuleBasedStateMachine):
    """Runs what a rule does in virtual time, and checks every look-up that ends by it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.model = Model()
        self.data = MemoryStore(now=self.loop.time)
        self.heard_s = [float("-inf")] * 2
        self.stores = [
            LineStore(self.data.sibling(), handled=self._handler(number)) for number in (0, 1)
        ]
        policy = make_policy(ttl_jitter=0.0)
        self.caches = [Cache(store, self.loop.time, policy=policy) for store in self.stores]
        self.look_ups: dict[asyncio.Task[Hit[Entry] | Miss], LookUp] = {}
        self.others: set[asyncio.Task[object]] = set()
        self.leases: list[Granted] = []
        self.answers = 0
        self.feed_fails = self.store_fails = self.held_up = False

    def teardown(self) -> None:
        async def close() -> None:
            for cache in (0, 1):
                self._open_gates(cache)
            for task in (*self.look_ups, *self.others):
                task.cancel()
            for each in self.caches:
                await each.feed.stop()
                await each.prompts.close()

        self.loop.run_until_complete(close())
        self.loop.run_until_complete(asyncio.wait([*self.look_ups, *self.others, self._nothing()]))
        self.loop.close()

    def _start_feeds(self) -> None:
        for cache in self.caches:
            cache.feed.start()

    def _nothing(self) -> asyncio.Task[None]:
        return self.loop.create_task(asyncio.sleep(0))

    def _handler(self, cache: int) -> Callable[[FeedEvent], None]:
        def handled(event: FeedEvent) -> None:
            self.heard_s[cache] = self.loop.time()
            if isinstance(event, Invalidated):
                known = self.model.by_tick.get(event.tick)
                if known is not None:
                    known.known.add(cache)

        return handled

    def _live(self, cache: int) -> bool:
        heard_lately = self.loop.time() - self.heard_s[cache] < FEED_TIMEOUT_S
        return heard_lately and (self.stores[cache].connected or self.stores[cache].mute)

    def _open_gates(self, cache: int) -> None:
        for gates in (self.stores[cache].before, self.stores[cache].after):
            for gate in gates.values():
                gate.open()
            gates.clear()

    async def _invalidate(self, cache: int, namespace: str, tag: str) -> None:
        made = Invalidation(namespace, tag, self.model.tick(), {cache})
        self.model.invalidations.append(made)
        try:
            tick = await self.caches[cache].prompts.invalidate(namespace, tag)
        except StoreUnavailableError:
            made.over = self.model.tick()
            return
        made.over, made.complete = self.model.tick(), True
        self.model.by_tick[tick] = made

    def _start(self, coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(coroutine)
        self.others.add(task)
        return task

    def _started(self, coroutine: Coroutine[object, object, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(coroutine)
        self.others.add(task)
        self._run(lambda: None)
        return task

    def _run(self, action: Callable[[], object]) -> None:
        """Do something, let everything run, and look at what has come of it."""

        async def step() -> None:
            result = action()
            if asyncio.iscoroutine(result):
                await result
            await turns(60)

        self.loop.run_until_complete(step())
        for task in [task for task in self.others if task.done()]:
            self.others.discard(task)
            task.result()
        for task, look_up in [each for each in self.look_ups.items() if each[0].done()]:
            del self.look_ups[task]
            self._check(look_up, task.result())

    def _ended(self, look_up: LookUp) -> None:
        look_up.ended_s = self.loop.time()

    def _check(self, look_up: LookUp, outcome: Hit[Entry] | Miss) -> None:
        now_s = look_up.ended_s
        if isinstance(outcome, Hit):
            self.model.check_hit(look_up, outcome.entry.answer.body, now_s)
            assert not outcome.degraded or look_up.disturbed
            return
        if outcome.lease is not None:
            # The computation begins when its caller is told to compute. The lease may be dated
            # earlier, if the store's reply was held up.
            dated = not outcome.degraded and not look_up.disturbed
            self.leases.append(Granted(outcome.lease, self.model.tick(), dated))
        if not look_up.disturbed and not look_up.patient:
            assert not outcome.degraded
            assert self.model.valid_record(look_up.key, now_s) is None, "a needless miss"
