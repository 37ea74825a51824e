"""Streams whose callers start, cancel, read, half-close and die in any order."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.errors import UpstreamUnavailableError
from tests.unit.batching import Batching
from tests.unit.conversing import TERMINAL, Stream, start
from tests.unit.scene import turns
from tests.unit.virtual_time import virtual_time

STREAMS = st.integers(0, 1)
IDS = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("start"), STREAMS, IDS, st.integers(0, 3)),
    st.tuples(st.just("start"), STREAMS, IDS, st.integers(0, 3)),
    st.tuples(st.just("cancel"), STREAMS, IDS, st.just(0)),
    st.tuples(st.sampled_from(["bad", "half-close", "abort"]), STREAMS, IDS, st.just(0)),
    st.tuples(st.sampled_from(["pause", "resume", "resume"]), STREAMS, IDS, st.just(0)),
    st.tuples(
        st.sampled_from(["say", "say", "end", "end", "fail"]), STREAMS, IDS, st.integers(0, 5)
    ),
    st.tuples(st.just("pass"), STREAMS, IDS, st.sampled_from([0, 0, 1, 1, 20])),
    st.tuples(st.just("turn"), STREAMS, IDS, st.integers(1, 4)),
)
Step = tuple[str, int, str, int]


class Caller:
    """What one stream's caller does, and what it may expect."""

    def __init__(self, batching: Batching) -> None:
        self.stream = Stream(batching)
        self.started: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.bad = 0
        self._retired: set[str] = set()
        self.closed = False
        self.aborted = False

    async def step(self, what: str, request_id: str, number: int) -> None:
        stream = self.stream
        match what:
            case "pause":
                stream.may_read.clear()
            case "resume":
                stream.may_read.set()
            case "abort":
                self.closed = self.aborted = True
                await stream.abort()
            case _ if not self.closed:
                self._write(what, request_id, number)

    def _write(self, what: str, request_id: str, number: int) -> None:
        stream = self.stream
        match what:
            case "start" if self._is_free(request_id):
                self.started[request_id] += 1
                if self.cancelled[request_id]:
                    self._retired.add(request_id)
                stream.send(start(request_id, f"prompt {number}", timeout_s=10 + 10 * number))
            case "cancel":
                if not self._is_free(request_id):
                    self.cancelled[request_id] += 1
                stream.cancel(request_id)
            case "bad":
                self.bad += 1
                stream.send(pb.GenerateRequest())
            case "half-close":
                self.closed = True
                stream.half_close()

    def _is_free(self, request_id: str) -> bool:
        """A caller knows so if it has read the end, or has just given the request up.

        If an end comes later, it cannot know whose that is: such an id is used once more only.
        """
        if self.cancelled[request_id]:
            return request_id not in self._retired
        return self.stream.ends[request_id] >= self.started[request_id]

    def check(self) -> None:
        """Each request has one end, unless it was cancelled: then it may have one."""
        ends = self.stream.ends
        assert ends.keys() <= self.started.keys() | {""}
        assert ends[""] <= self.bad
        for request_id, started in self.started.items():
            assert ends[request_id] <= started
            if not self.aborted:
                assert ends[request_id] >= started - self.cancelled[request_id]
            if not self.cancelled[request_id]:
                self._check_texts(request_id)
        if not self.aborted:
            assert ends[""] == self.bad
            assert self.stream.reading.done()
            assert self.stream.reading.exception() is None

    def _check_texts(self, request_id: str) -> None:
        text = ""
        for reply in self.stream.replies:
            event = reply.WhichOneof("event")
            if reply.id != request_id:
                continue
            if event == "delta":
                text += reply.delta
            elif event == "completion":
                done = reply.completion
                assert text == (done.text if done.source != pb.ANSWER_SOURCE_CACHE else "")
            if event in TERMINAL:
                text = ""


def upstream_step(batching: Batching, what: str, number: int, ended: set[int]) -> None:
    live = [each for each in batching.upstream.live if each.number not in ended]
    if not live:
        return
    call = live[number % len(live)]
    if what == "say":
        call.say(f"<{call.number} {call.events.qsize()}>")
        return
    ended.add(call.number)
    if what == "fail":
        call.fail(UpstreamUnavailableError("scripted"))
    else:
        call.say(f"the end of {call.number}")
        call.end()


async def finish(batching: Batching, callers: list[Caller], ended: set[int]) -> None:
    for caller in callers:
        await caller.step("resume", "", 0)
        await caller.step("half-close", "", 0)
    for _ in range(50):
        await asyncio.sleep(1.0)
        for number in range(len(batching.upstream.live)):
            upstream_step(batching, "end", number, ended)
        await turns()
    for caller in callers:
        if not caller.aborted:
            await asyncio.wait_for(caller.stream.reading, 1.0)


@given(st.lists(STEPS, min_size=8, max_size=50), st.sampled_from([2, 100]))
@settings(max_examples=200)
def test_each_request_has_one_end_and_nothing_is_left(steps: list[Step], queue_max: int) -> None:
    @virtual_time
    async def run() -> None:
        batching = Batching(queue_max=queue_max)
        await batching.connect()
        callers, ended = [Caller(batching), Caller(batching)], set[int]()
        for what, index, request_id, number in steps:
            match what:
                case "pass":
                    await asyncio.sleep(number)
                case "turn":
                    await turns(number)
                case "say" | "end" | "fail":
                    upstream_step(batching, what, number, ended)
                case _:
                    await callers[index].step(what, request_id, number)
        await finish(batching, callers, ended)
        for caller in callers:
            caller.check()
            assert caller.stream.conversation._waits == {}
        batching.check_nothing_leaks()

    run()
