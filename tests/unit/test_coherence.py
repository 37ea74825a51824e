"""Two sidecars on one store, driven at random, compared with the model in ``coherence``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mge_cache_server import keys
from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.model import Entry, Hit, Miss, SetOutcome, SetStatus
from mge_cache_server.store import FeedEvent, Invalidated
from tests.unit.caches import FEED_TIMEOUT_S, Cache, make_policy
from tests.unit.coherence import (
    MODEL_TAG,
    NAMESPACES,
    Fill,
    Granted,
    Invalidation,
    LookUp,
    Model,
    held_up,
    invalidated_tags,
    sidecars,
    some_keys,
    some_tags,
)
from tests.unit.lines import LineStore
from tests.unit.scene import Gate, turns
from tests.unit.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mge_cache_server.model import EntryKey

T = TypeVar("T")


class Coherence(RuleBasedStateMachine):
    """Every rule starts something and lets everything run until it waits for the next rule."""

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

    @initialize()
    def start(self) -> None:
        self._run(self._start_feeds)

    @rule(cache=sidecars, key=some_keys, patient=st.booleans())
    def get(self, cache: int, key: EntryKey, patient: bool) -> None:  # noqa: FBT001
        store = self.stores[cache]
        overlapping = [
            each for each in self.look_ups.values() if (each.cache, each.key) == (cache, key)
        ]
        look_up = self.model.begin(
            cache,
            key,
            patient=patient,
            asks=not self._live(cache) and not store.down,
            overlapping=overlapping,
        )
        look_up.disturbed = bool(store.down or store.before or store.after or overlapping)

        def begin() -> None:
            getting = self.caches[cache].get(key, wait_s=1e6 if patient else 0.0, lease_ttl_s=60.0)
            self.look_ups[self.loop.create_task(getting)] = look_up

        self._run(begin)

    @rule(cache=sidecars, key=some_keys, tags=some_tags, ttl_s=st.sampled_from((2.0, 30.0)))
    def set(self, cache: int, key: EntryKey, tags: frozenset[str], ttl_s: float) -> None:
        self._set(cache, key, tags, ttl_s, None)

    @precondition(lambda self: self.leases)
    @rule(cache=sidecars, data=st.data(), tags=some_tags, ttl_s=st.sampled_from((2.0, 30.0)))
    def fill(self, cache: int, data: st.DataObject, tags: frozenset[str], ttl_s: float) -> None:
        granted = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self._set(cache, granted.lease.key, tags, ttl_s, granted)

    @precondition(lambda self: self.leases)
    @rule(cache=sidecars, data=st.data())
    def give_up(self, cache: int, data: st.DataObject) -> None:
        granted = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self._run(lambda: self.caches[cache].prompts.leases.release(granted.lease))

    @rule(cache=sidecars, namespace=st.sampled_from(NAMESPACES), tag=invalidated_tags)
    def invalidate(self, cache: int, namespace: str, tag: str) -> None:
        self._run(lambda: self._start(self._invalidate(cache, namespace, tag)))

    @rule(seconds=st.sampled_from((0.001, 0.3, 0.9, 2.0, 40.0)), signs_of_life=st.booleans())
    def pass_time(self, seconds: float, signs_of_life: bool) -> None:  # noqa: FBT001
        async def sleep() -> None:
            await asyncio.sleep(seconds)
            for store in self.stores:
                if signs_of_life and not store.under_way:
                    store.deliver(1)

        self._run(sleep)

    @rule(cache=sidecars, count=st.sampled_from((1, 2, 100)))
    def deliver(self, cache: int, count: int) -> None:
        self._run(lambda: self.stores[cache].deliver(count))

    @rule(cache=sidecars)
    def feed_falls_silent(self, cache: int) -> None:
        self._run(self.stores[cache].fall_silent)

    @rule(cache=sidecars)
    def feed_is_lost(self, cache: int) -> None:
        self._run(self.stores[cache].hang_up)

    @rule(cache=sidecars)
    def feed_is_mended(self, cache: int) -> None:
        async def mend() -> None:
            self.stores[cache].cut = False
            await asyncio.sleep(0.3)

        self._run(mend)

    @rule(cache=sidecars)
    def store_goes_away(self, cache: int) -> None:
        def cut() -> None:
            self.stores[cache].down = True
            for each in self.look_ups.values():
                each.disturbed = each.disturbed or each.cache == cache
                each.had_to_know = [one for one in each.had_to_know if cache in one.known]

        self._run(cut)

    @rule(cache=sidecars)
    def store_comes_back(self, cache: int) -> None:
        self._run(lambda: setattr(self.stores[cache], "down", False))

    @rule(cache=sidecars, where=held_up)
    def hold_up(self, cache: int, where: tuple[str, str]) -> None:
        operation, direction = where
        for each in self.look_ups.values():
            each.disturbed = each.disturbed or each.cache == cache
        getattr(self.stores[cache], direction).setdefault(operation, Gate())

    @rule(cache=sidecars)
    def let_go(self, cache: int) -> None:
        self._run(lambda: self._open_gates(cache))

    @rule(key=some_keys)
    def all_is_quiet(self, key: EntryKey) -> None:
        """Mend everything and wait: both sidecars must then agree with the store."""

        async def mend() -> None:
            for cache, store in enumerate(self.stores):
                self._open_gates(cache)
                store.down = store.cut = False
                if store.mute:
                    store.hang_up()
                    store.cut = False
            await asyncio.sleep(1.2)
            for store in self.stores:
                store.deliver(1000)
            await turns()
            for store in self.stores:
                store.deliver(1)

        self._run(mend)
        assert self._live(0)
        assert self._live(1)
        expected = self.model.valid_record(key, self.loop.time())
        for cache in (0, 1):
            if not any((each.cache, each.key) == (cache, key) for each in self.look_ups.values()):
                look_up = self.model.begin(cache, key, patient=False, asks=True, overlapping=[])
                peeking = self._started(self.caches[cache].prompts.peek(key))
                assert peeking.done()
                outcome = peeking.result()
                if isinstance(outcome, Hit):
                    self.model.check_hit(look_up, outcome.entry.answer.body, self.loop.time())
                    assert not outcome.degraded
                else:
                    assert expected is None, "a needless miss"

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
                known = self.model.invalidations.get(event.tick)
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

    def _set(
        self,
        cache: int,
        key: EntryKey,
        tags: frozenset[str],
        ttl_s: float,
        granted: Granted | None,
    ) -> None:
        begun = self.model.tick() if granted is None else granted.begun
        lease = None if granted is None else granted.lease
        dated = granted is None or granted.dated
        self.answers += 1
        body = b"%d" % self.answers
        every_tag = tags | {MODEL_TAG, keys.key_tag(key.digest)}
        at_once = not self.stores[cache].before and not self.stores[cache].after

        async def store() -> SetOutcome:
            # Its time begins when the store takes it, which may be held up.
            fill = Fill(key, every_tag, begun, float("inf"))
            self.model.fills[body] = fill
            outcome = await self.caches[cache].set(
                key, body, tags=tuple(sorted(every_tag)), ttl_s=ttl_s, lease=lease
            )
            fill.expires_s = self.loop.time() + ttl_s
            fill.refused = outcome.status is SetStatus.OVERTAKEN and at_once
            if outcome.status is SetStatus.STORED and at_once and dated:
                self.model.records[key] = body
            else:
                self.model.records.pop(key, None)
            if at_once and outcome.status is not SetStatus.KEPT_LOCALLY:
                overtaken = any(each.ends(fill) for each in self.model.invalidations.values())
                refused = outcome.status is SetStatus.OVERTAKEN
                assert refused == overtaken if dated else refused >= overtaken
            return outcome

        storing = self._started(store())
        assert storing.done() or not at_once
        if storing.done() and not storing.cancelled():
            storing.result()
        # Two writers at once: which record is in the store is not modelled.
        if not at_once:
            self.model.records.pop(key, None)

    async def _invalidate(self, cache: int, namespace: str, tag: str) -> None:
        # It is in effect when the store has it; it is complete when its caller is told.
        try:
            tick = await self.caches[cache].prompts.invalidate(namespace, tag)
        except StoreUnavailableError:
            return
        known = {cache}
        self.model.invalidations[tick] = Invalidation(namespace, tag, self.model.tick(), known)

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

    def _check(self, look_up: LookUp, outcome: Hit[Entry] | Miss) -> None:
        now_s = self.loop.time()
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


TestCoherence = Coherence.TestCase
TestCoherence.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
