"""Whatever callers, windows and Anthropic do, in whatever order: nothing lost, nothing left."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache_server.errors import (
    AskError,
    QueueFullError,
    RateLimitedError,
    UpstreamRefusedError,
    UpstreamUnavailableError,
)
from mge_cache_server.generation import AnswerSource, CacheUse, Completion, Strategy
from tests.unit.batching import Batching, Caller
from tests.unit.dictated import INPUT_USD, LONG_SYSTEM, OUTPUT_USD, Asked
from tests.unit.questions import make_request
from tests.unit.scene import turns
from tests.unit.virtual_time import virtual_time

SCRIPTED = "scripted"
FAILURES = {
    "down": UpstreamUnavailableError(SCRIPTED),
    "limited": RateLimitedError(SCRIPTED, retry_after_s=2.0),
    "refused": UpstreamRefusedError(SCRIPTED),
}
REQUESTS = st.tuples(
    st.integers(0, 3),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([CacheUse.USE, CacheUse.USE, CacheUse.USE, *CacheUse]),
    st.sampled_from([Strategy.MERGE, Strategy.MERGE, Strategy.FAN_OUT]),
)
STEPS = st.one_of(
    st.tuples(st.just("submit"), REQUESTS),
    st.tuples(st.just("submit"), REQUESTS),
    st.tuples(st.sampled_from(["leave", "read"]), st.integers(0, 9)),
    st.tuples(st.just("come again"), st.integers(0, 9)),
    st.tuples(
        st.sampled_from(["go on"] * 3 + ["end", "scramble", "scramble", "cut"]), st.integers(0, 9)
    ),
    st.tuples(st.sampled_from(list(FAILURES)), st.integers(0, 9)),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.1, 0.6, 0.6, 3.0])),
    st.tuples(st.just("turn"), st.integers(1, 5)),
)


class Model:
    """What Anthropic says: each call's answers are unlike every other's."""

    def __init__(self) -> None:
        self._rest: dict[int, str] = {}

    def go_on(self, call: Asked) -> None:
        rest = self._left(call)
        if call.number not in self._rest:
            call.begin()
        size = 1 + len(rest) // 3
        if rest:
            call.say(rest[:size])
        self._rest[call.number] = rest[size:]

    def end(self, call: Asked, how: str = "end") -> None:
        rest = self._left(call)
        if how == "scramble":
            rest = rest.replace(" answer 2]", " answer 3]")
        elif how == "cut":
            rest = rest[: len(rest) // 2]
        if call.number not in self._rest:
            call.begin()
        call.say(rest)
        call.end("max_tokens" if how == "cut" else "end_turn")
        self._rest[call.number] = ""

    def _left(self, call: Asked) -> str:
        texts = [f"{call.number}: {prompt}, said the model" for prompt in call.prompts]
        return self._rest.get(call.number, call.reply(texts))


class Schedule:
    """Runs steps, and checks after each what must hold at any time."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.model = Model()
        self.ended: set[int] = set()
        self.refused = 0

    async def step(self, what: str, argument: object) -> None:
        batching = self.batching
        match what, argument:
            case "submit", (int(number), bool(long), CacheUse() as use, Strategy() as strategy):
                self._submit(number, use, strategy, long=long)
            case "leave" | "read" | "come again", int(index) if batching.callers:
                self._caller(what, batching.callers[index % len(batching.callers)])
            case "pass", float(seconds):
                await asyncio.sleep(seconds)
            case "turn", int(count):
                await turns(count)
            case _, int(index):
                live = [each for each in batching.upstream.live if each.number not in self.ended]
                if live:
                    await self._upstream(what, live[index % len(live)])

    def _submit(self, number: int, use: CacheUse, strategy: Strategy, *, long: bool) -> None:
        # So that calls can be told apart by their prompts, callers of each kind ask their own.
        serial = len(self.batching.callers) if use is CacheUse.BYPASS else number
        prompt = f"{use.value} {serial} {'long' if long else 'short'}"
        system = LONG_SYSTEM if long else ""
        self.batching.submit(make_request(prompt, system=system, cache=use, strategy=strategy))

    def read(self) -> None:
        """Let half of the callers read; the others do when they are told to."""
        for caller in self.batching.callers[::2]:
            caller.read()

    def _caller(self, what: str, caller: Caller) -> None:
        if what == "read":
            caller.read()
            return
        caller.leave()
        if what == "come again":  # in the moment in which the other one leaves
            self.batching.submit(caller.request)

    async def _upstream(self, what: str, call: Asked) -> None:
        if what == "go on":
            for _ in range(3):
                self.model.go_on(call)
                await turns(3)
                self.read()
            return
        self.ended.add(call.number)
        failure = FAILURES.get(what)
        if failure is None:
            self.model.end(call, what)
            return
        call.fail(failure)
        if isinstance(failure, RateLimitedError):
            self.batching.upstream.limiter.throttled(failure.retry_after_s)

    def check_calls(self) -> None:
        """A call is under way only while somebody wants a part of it."""
        wanted = {each.prompt for each in self.batching.callers if each.waits}
        for call in self.batching.upstream.live:
            if call.number not in self.ended:
                assert wanted & set(call.prompts), call.prompts

    async def finish(self) -> None:
        """Let everybody who is left have an answer."""
        for _ in range(100):
            if not any(each.waits for each in self.batching.callers):
                break
            await asyncio.sleep(1.0)
            await turns()
            for call in self.batching.upstream.live:
                if call.number not in self.ended:
                    self.ended.add(call.number)
                    self.model.end(call)
            await turns()
            for caller in self.batching.callers:
                caller.read()
        await asyncio.sleep(30.0)


def check_outcome(caller: Caller, calls: list[Asked], *, may_fail: bool) -> None:
    assert caller.left != (caller.outcome is not None), "exactly one of both"
    if isinstance(caller.outcome, Completion):
        text = caller.outcome.text
        if caller.outcome.source is not AnswerSource.CACHE:
            assert caller.texts[-1] == text
        number, _, rest = text.partition(": ")
        assert caller.prompt in calls[int(number)].prompts
        whole = f"{caller.prompt}, said the model"
        if caller.outcome.stop_reason == "end_turn":
            assert rest == whole
        else:
            assert whole.startswith(rest)
    elif caller.outcome is not None:
        assert isinstance(caller.outcome, AskError)
        assert isinstance(caller.outcome, QueueFullError) or str(caller.outcome) == SCRIPTED
        assert may_fail


def check_bill(batching: Batching, *, complete: bool) -> None:
    """What callers paid is what was billed, but for what the last one left behind."""
    billed_usd = sum(
        call.billed.input_tokens * INPUT_USD + call.billed.output_tokens * OUTPUT_USD
        for call in batching.upstream.calls
    )
    done = [
        (each.request.cache, each.outcome)
        for each in batching.callers
        if isinstance(each.outcome, Completion)
    ]
    paid_usd = sum(each.cost_usd for _, each in done)
    spent_usd = batching.cache.layer().spent_usd
    assert paid_usd <= spent_usd + 1e-12
    assert spent_usd <= billed_usd + 1e-12
    if complete:
        assert abs(paid_usd - billed_usd) < 1e-12
    # Nobody is charged for what another one paid. (Who bypasses the cache shares nothing.)
    texts = Counter(
        each.text
        for cache, each in done
        if each.source is AnswerSource.UPSTREAM and cache is not CacheUse.BYPASS
    )
    assert all(count == 1 for count in texts.values())


@given(
    st.lists(STEPS, min_size=12, max_size=40),
    st.sampled_from([1, 2, 32]),
    st.sampled_from([3, 100]),
    st.sampled_from(["eager", "patient"]),
)
@settings(max_examples=200)
def test_nothing_is_lost_and_nothing_is_left(
    steps: list[tuple[str, object]], calls_max: int, queue_max: int, mood: str
) -> None:
    @virtual_time
    async def run() -> None:
        batching = Batching(calls_max=calls_max, queue_max=queue_max, eager=mood == "eager")
        await batching.connect()
        schedule = Schedule(batching)
        for what, argument in steps:
            await schedule.step(what, argument)
            schedule.read()
            if what == "pass":
                await turns()
                schedule.check_calls()
        await schedule.finish()
        names = {what for what, _ in steps}
        for caller in batching.callers:
            may_fail = bool(names & FAILURES.keys()) or queue_max == 3
            check_outcome(caller, batching.upstream.calls, may_fail=may_fail)
        failed = names & {"leave", "come again", *FAILURES}
        check_bill(batching, complete=not failed and queue_max > 3)
        batching.check_nothing_leaks()

    run()


@given(st.lists(STEPS, max_size=25), st.sampled_from([1, 32]))
@settings(max_examples=60)
def test_giving_up_leaves_nothing_either(steps: list[tuple[str, object]], calls_max: int) -> None:
    @virtual_time
    async def run() -> None:
        batching = Batching(calls_max=calls_max)
        await batching.connect()
        schedule = Schedule(batching)
        for what, argument in steps:
            await schedule.step(what, argument)
        await batching.batcher.abort()
        await asyncio.sleep(30.0)
        for caller in batching.callers:
            caller.read()
            assert caller.left != (caller.outcome is not None)
        batching.check_nothing_leaks()

    run()
