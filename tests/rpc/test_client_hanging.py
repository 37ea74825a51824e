"""Both clients at a sidecar that says nothing, or nothing but that it is there."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from mge_cache import AsyncClient, Client, Source, Timeouts
from tests.rpc.asyncio_client import ANSWER, REQUEST, double
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.rpc.sidecar_double import SidecarDouble

    Ask = Callable[[], Awaitable[Source]]
    Connect = Callable[[Timeouts], Awaitable[Ask]]

__all__ = ["double"]  # a fixture

# Deadlines of an hour: what ends sooner, ends because of the silence.
HOUR = Timeouts(
    get_s=3600.0,
    set_s=3600.0,
    slice_s=3600.0,
    slice_margin_s=3600.0,
    silence_s=0.1,
    connect_s=1.0,
    retry_s=3600.0,
)


@pytest.fixture(params=["async", "sync"])
async def connect(request: pytest.FixtureRequest, double: SidecarDouble) -> AsyncIterator[Connect]:
    """Connects a client of either kind to the double; returns what asks for one answer."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(double.stop)  # first of all: clients wait for what they left

        async def made(timeouts: Timeouts) -> Ask:
            target = await double.start("127.0.0.1:0")
            if request.param == "async":
                client = await stack.enter_async_context(AsyncClient(target, timeouts=timeouts))

                async def compute() -> object:
                    return ANSWER

                async def ask() -> Source:
                    return (await client.get_or_compute(REQUEST, compute)).source  # type: ignore[arg-type]

                return ask
            threads = stack.enter_context(Client(target, timeouts=timeouts))

            async def ask_in_thread() -> Source:
                answer = await asyncio.to_thread(threads.get_or_compute, REQUEST, lambda: ANSWER)
                return answer.source

            return ask_in_thread

        yield made


async def test_nobody_waits_while_it_is_silent(double: SidecarDouble, connect: Connect) -> None:
    double.hangs.update(("GetPrompt", "SetPrompt", "Check"))
    ask = await connect(HOUR)
    async with asyncio.timeout(60):
        for _ in range(20):
            assert await ask() is Source.COMPUTED
    # One call has found out, and one question is open; nothing else went to the sidecar.
    assert (len(double.gets), len(double.sets), double.questions) == (1, 0, 1)


async def test_questions_go_on_while_calls_come_and_an_answer_ends_it(
    double: SidecarDouble, connect: Connect
) -> None:
    double.hangs.update(("GetPrompt", "SetPrompt", "Check"))
    # A question that is not answered is given up after a look-up's deadline.
    ask = await connect(Timeouts(get_s=0.5, silence_s=0.1, retry_s=0.05))

    async def asked_again() -> bool:
        assert await ask() is Source.COMPUTED
        return double.questions >= 3

    await eventually(asked_again, within_s=30)
    gets = len(double.gets)
    double.hangs.clear()

    async def back() -> bool:
        await ask()
        return len(double.gets) > gets

    await eventually(back, within_s=30)
    await eventually(lambda: hit(ask), within_s=30)


async def hit(ask: Ask) -> bool:
    return await ask() is not Source.COMPUTED


async def test_a_store_in_silence_is_left_alone_and_done_later(
    double: SidecarDouble, connect: Connect
) -> None:
    ask = await connect(HOUR)
    double.hangs.update(("SetPrompt", "Check"))
    async with asyncio.timeout(60):
        assert await ask() is Source.COMPUTED
    assert len(double.sets) == 1


async def test_who_waits_is_not_disturbed_while_it_is_there(
    double: SidecarDouble, connect: Connect
) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    ask = await connect(
        Timeouts(get_s=0.2, silence_s=0.2, slice_s=3600.0, slice_margin_s=3600.0, retry_s=3600.0)
    )
    waiting = asyncio.ensure_future(ask())
    await eventually(lambda: double.waiting and double.questions >= 3, within_s=30)
    assert not waiting.done()
    double.hangs.add("Check")
    async with asyncio.timeout(60):
        assert await waiting is Source.COMPUTED
