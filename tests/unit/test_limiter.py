"""How many calls there may be at once, learnt from refusals."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.limiter import Limiter
from tests.unit.virtual_time import now, virtual_time


class Calls:
    """Calls that begin when they are let and end when the test says."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.begun: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    async def start(self, count: int) -> None:
        for number in range(len(self.tasks), len(self.tasks) + count):
            self._ends.append(asyncio.Event())
            self.tasks.append(asyncio.ensure_future(self._run(number)))
        await settle()

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self.tasks[number]
        await settle()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _run(self, number: int) -> None:
        async with self.limiter.permit():
            self.begun.append(number)
            await self._ends[number].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@virtual_time
async def test_first_come_first_served_within_the_limit() -> None:
    limiter = Limiter(2)
    calls = Calls(limiter)
    await calls.start(4)
    assert (calls.begun, limiter.in_flight, limiter.waiting) == ([0, 1], 2, 2)
    await calls.end(1)
    assert calls.begun == [0, 1, 2]
    await calls.stop()
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@virtual_time
async def test_who_waits_may_leave() -> None:
    limiter = Limiter(1)
    calls = Calls(limiter)
    await calls.start(3)
    calls.tasks[1].cancel()
    await settle()
    await calls.end(0)
    assert calls.begun == [0, 2]
    await calls.stop()


@virtual_time
async def test_who_leaves_with_the_permit_just_given_gives_it_on() -> None:
    limiter = Limiter(1)
    calls = Calls(limiter)
    await calls.start(3)
    calls._ends[0].set()
    await asyncio.sleep(0)
    assert limiter.waiting == 1, "the next has its permit"
    assert calls.begun == [0], "but has not run yet"
    calls.tasks[1].cancel()
    await settle()
    assert calls.begun == [0, 2]
    await calls.stop()


@virtual_time
async def test_a_refusal_halves_the_limit_and_holds_everybody_back() -> None:
    limiter = Limiter(8)
    limiter.throttled(3.0)
    limiter.throttled(2.0)  # of the same burst
    assert (limiter.limit, limiter.pause_s) == (4, 3.0)
    calls, began_s = Calls(limiter), now()
    await calls.start(1)
    assert calls.begun == []
    await asyncio.sleep(2.9)
    assert calls.begun == []
    await asyncio.sleep(0.1)
    await settle()
    assert calls.begun == [0]
    assert now() - began_s == 3.0
    limiter.throttled(None)
    assert limiter.limit == 2
    await calls.stop()


@virtual_time
async def test_the_limit_grows_by_one_as_all_that_it_allows_succeed() -> None:
    limiter = Limiter(8)
    limiter.throttled(None)
    for _ in range(5):
        limiter.succeeded()
    assert limiter.limit == 5
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 8


@given(st.lists(st.sampled_from(["throttled", "succeeded", "start", "end", "wait"]), max_size=60))
def test_the_limit_is_kept_and_nobody_is_forgotten(steps: list[str]) -> None:
    @virtual_time
    async def run() -> None:
        limiter = Limiter(4)
        calls = Calls(limiter)
        ended = 0
        for step in steps:
            match step:
                case "throttled":
                    limiter.throttled(0.5)
                case "succeeded":
                    limiter.succeeded()
                case "start":
                    before = limiter.in_flight
                    await calls.start(1)
                    assert limiter.in_flight <= max(before, limiter.limit)
                case "end" if ended < len(calls.begun):
                    await calls.end(calls.begun[ended])
                    ended += 1
                case "wait":
                    await asyncio.sleep(1.0)
            assert 1 <= limiter.limit <= 4
        while ended < len(calls.tasks):
            await asyncio.sleep(1.0)
            await calls.end(calls.begun[ended])
            ended += 1
        assert sorted(calls.begun) == list(range(len(calls.tasks)))
        assert (limiter.in_flight, limiter.waiting) == (0, 0)

    run()


@virtual_time
async def test_who_gives_up_in_a_pause_leaves_nothing_behind() -> None:
    limiter = Limiter(2)
    limiter.throttled(300.0)
    calls = Calls(limiter)
    await calls.start(3)
    assert limiter.waiting == 3
    await calls.stop()
    assert not limiter._waiting
