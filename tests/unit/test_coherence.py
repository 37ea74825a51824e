"""Two sidecars on one store, driven at random, compared with the model in ``coherence``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from mge_cache_server import keys
from mge_cache_server.model import Hit, SetOutcome, SetStatus
from tests.unit.coherence import (
    MODEL_TAG,
    NAMESPACES,
    Fill,
    Granted,
    held_up,
    invalidated_tags,
    sidecars,
    some_keys,
    some_tags,
)
from tests.unit.scene import Gate, turns
from tests.unit.two_sidecars import TwoSidecars

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey

T = TypeVar("T")

NEVER = 2**60
"""Later than everything."""


class Coherence(TwoSidecars):
    """Every rule starts something and lets everything run until it waits for the next rule."""

    @initialize(feed_fails=st.booleans(), store_fails=st.booleans(), held_up=st.booleans())
    def start(self, feed_fails: bool, store_fails: bool, held_up: bool) -> None:  # noqa: FBT001
        # Not every run has every fault: in few steps, faults would leave no room for the rest.
        self.feed_fails, self.store_fails, self.held_up = feed_fails, store_fails, held_up
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
            task = self.loop.create_task(getting)
            task.add_done_callback(lambda _: self._ended(look_up))
            self.look_ups[task] = look_up

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

    @precondition(lambda self: self.feed_fails)
    @rule(cache=sidecars)
    def feed_falls_silent(self, cache: int) -> None:
        self._run(self.stores[cache].fall_silent)

    @precondition(lambda self: self.feed_fails)
    @rule(cache=sidecars)
    def feed_is_lost(self, cache: int) -> None:
        self._run(self.stores[cache].hang_up)

    @precondition(lambda self: self.feed_fails)
    @rule(cache=sidecars)
    def feed_is_mended(self, cache: int) -> None:
        async def mend() -> None:
            self.stores[cache].cut = False
            await asyncio.sleep(0.3)

        self._run(mend)

    @precondition(lambda self: self.store_fails)
    @rule(cache=sidecars)
    def store_goes_away(self, cache: int) -> None:
        def cut() -> None:
            self.stores[cache].down = True
            for each in self.look_ups.values():
                each.disturbed = each.disturbed or each.cache == cache
                each.had_to_know = [one for one in each.had_to_know if cache in one.known]

        self._run(cut)

    @precondition(lambda self: self.store_fails)
    @rule(cache=sidecars)
    def store_comes_back(self, cache: int) -> None:
        self._run(lambda: setattr(self.stores[cache], "down", False))

    @precondition(lambda self: self.held_up)
    @rule(cache=sidecars, where=held_up)
    def hold_up(self, cache: int, where: tuple[str, str]) -> None:
        operation, direction = where
        for each in self.look_ups.values():
            each.disturbed = each.disturbed or each.cache == cache
        getattr(self.stores[cache], direction).setdefault(operation, Gate())

    @precondition(lambda self: self.held_up)
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
        # Where the store cannot be asked, the last tick that is known dates the answer.
        dated = (granted is None or granted.dated) and not self.stores[cache].down
        self.answers += 1
        body = b"%d" % self.answers
        every_tag = tags | {MODEL_TAG, keys.key_tag(key.digest)}
        at_once = not self.stores[cache].before and not self.stores[cache].after

        async def store() -> SetOutcome:
            # Its time begins when the store takes it, which may be held up.
            fill = Fill(key, every_tag, begun, float("inf"))
            if granted is None and not at_once:
                # Without a lease it counts as begun at some moment of a call that is held up.
                fill.begun = NEVER
            self.model.fills[body] = fill
            outcome = await self.caches[cache].set(
                key, body, tags=tuple(sorted(every_tag)), ttl_s=ttl_s, lease=lease
            )
            fill.expires_s = self.loop.time() + ttl_s
            if fill.begun == NEVER:
                fill.begun = self.model.tick()
            fill.refused = outcome.status is SetStatus.OVERTAKEN and at_once
            if outcome.status is SetStatus.STORED and at_once and dated:
                self.model.records[key] = body
            else:
                self.model.records.pop(key, None)
            if at_once and outcome.status is not SetStatus.KEPT_LOCALLY:
                refused = outcome.status is SetStatus.OVERTAKEN
                surely = any(each.ends(fill) for each in self.model.invalidations)
                perhaps = any(each.may_end(fill) for each in self.model.invalidations)
                assert refused or not surely
                assert perhaps or not (refused and dated)
            return outcome

        storing = self._started(store())
        assert storing.done() or not at_once
        if storing.done() and not storing.cancelled():
            storing.result()
        # Two writers at once: which record is in the store is not modelled.
        if not at_once:
            self.model.records.pop(key, None)


TestCoherence = Coherence.TestCase
TestCoherence.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
