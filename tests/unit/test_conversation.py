"""One stream of ``Generate``: its bounds, its end, and what its caller does not read."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.conversation import UNDER_WAY_MAX, Conversations
from mge_cache_server.deferred_tickets import Tickets
from mge_cache_server.errors import InvalidRequestError, QueueFullError
from mge_cache_server.generation import Strategy
from tests.unit.batching import Batching
from tests.unit.conversing import LIMITS, Stream, start
from tests.unit.scene import turns
from tests.unit.virtual_time import virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 3, 4, 8, 14


async def begin(**settings: Any) -> tuple[Batching, Stream]:
    batching = Batching(**settings)
    await batching.connect()
    return batching, Stream(batching)


def answer_all(batching: Batching) -> None:
    for call in batching.upstream.live:
        call.say(f"answer to {call.prompts[0]}")
        call.end()


@virtual_time
async def test_a_thousand_may_be_under_way_and_one_more_is_refused() -> None:
    batching, stream = await begin(
        calls_max=2 * UNDER_WAY_MAX, queue_max=2 * UNDER_WAY_MAX, batch_max=UNDER_WAY_MAX
    )
    stream.send(*(start(str(number), f"x{number}") for number in range(UNDER_WAY_MAX + 1)))
    await batching.sent()
    assert stream.errors() == [(str(UNDER_WAY_MAX), RESOURCE_EXHAUSTED)]
    answer_all(batching)
    await turns()
    # There is room again.
    stream.send(start("again", "x0"))
    stream.half_close()
    await stream.reading
    assert stream.ends == dict.fromkeys(["again", *map(str, range(UNDER_WAY_MAX + 1))], 1), (
        "one end for each"
    )
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_errors_that_nobody_reads_hold_up_the_requests() -> None:
    batching, stream = await begin()
    stream.may_read.clear()
    sent = 3 * UNDER_WAY_MAX
    stream.send(*(start("", "bad") for _ in range(sent)))
    await asyncio.sleep(1.0)
    assert UNDER_WAY_MAX <= stream.taken <= UNDER_WAY_MAX + 1
    stream.half_close()
    stream.may_read.set()
    await stream.reading
    assert stream.errors() == [("", INVALID_ARGUMENT)] * sent
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_a_caller_who_reads_no_errors_may_leave() -> None:
    batching, stream = await begin()
    stream.may_read.clear()
    stream.send(start("a", "x"), *(start("", "bad") for _ in range(2 * UNDER_WAY_MAX)))
    await batching.sent()
    [call] = batching.upstream.live
    await stream.abort()
    await turns()
    assert call.cancelled
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_half_closing_lets_what_is_under_way_finish() -> None:
    batching, stream = await begin()
    stream.send(start("a", "x"), start("b", "y"))
    stream.half_close()
    await batching.sent()
    assert not stream.reading.done()
    answer_all(batching)
    await stream.reading
    assert stream.ends == {"a": 1, "b": 1}
    await turns()
    batching.check_nothing_leaks()


@pytest.mark.parametrize("moment", ["looking up", "waiting", "asked", "answering"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_stream_that_dies_leaves_nothing(moment: str, *, reads: bool) -> None:
    @virtual_time
    async def run() -> None:
        batching, stream = await begin()
        if not reads:
            stream.may_read.clear()
        stream.send(start("a", "x"), start("b", "x"), start("c", "y", timeout_s=60))
        await turns(3 if moment == "looking up" else 30)
        if moment in {"asked", "answering"}:
            await batching.sent()
        if moment == "answering":
            for call in batching.upstream.live:
                call.begin()
                call.say("half")
            await turns()
        await stream.abort()
        await turns()
        assert all(call.cancelled for call in batching.upstream.calls)
        await asyncio.sleep(100.0)
        batching.check_nothing_leaks()

    run()


@virtual_time
async def test_requests_that_break_end_the_stream_after_the_answers() -> None:
    batching, stream = await begin()
    stream.send(start("a", "x"))
    stream.break_requests(InvalidRequestError("request", "is no message"))
    await batching.sent()
    answer_all(batching)
    with pytest.raises(InvalidRequestError, match="is no message"):
        await stream.reading
    assert stream.ends == {"a": 1}
    await turns()
    batching.check_nothing_leaks()


def test_requests_that_break_before_the_stream_dies_are_no_news() -> None:
    reported: list[object] = []

    @virtual_time
    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        batching, stream = await begin()
        stream.send(start("a", "x"))
        stream.break_requests(InvalidRequestError("request", "is no message"))
        await batching.sent()
        await stream.abort()
        await turns()
        batching.check_nothing_leaks()
        del stream
        gc.collect()

    run()
    assert reported == []


@virtual_time
async def test_what_comes_while_the_sidecar_stops_is_refused() -> None:
    batching, stream = await begin()
    stream.send(start("a", "x"))
    await batching.sent()
    stream.conversation.stop()
    batching.batcher.close()
    stream.send(start("b", "y"))
    await turns()
    assert stream.errors() == [("b", UNAVAILABLE)]
    answer_all(batching)
    await stream.reading
    assert stream.ends == {"a": 1, "b": 1}
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_time_runs_out_for_one_request_alone() -> None:
    batching, stream = await begin()
    stream.send(start("a", "x", timeout_s=2), start("b", "x"))
    await asyncio.sleep(2.1)
    assert stream.errors() == [("a", DEADLINE_EXCEEDED)]
    answer_all(batching)
    stream.half_close()
    await stream.reading
    assert stream.ends == {"a": 1, "b": 1}
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_an_id_is_free_when_its_end_is_read() -> None:
    batching, stream = await begin()
    for number in range(5):
        stream.send(start("a", f"x{number}"))
        await batching.sent()
        answer_all(batching)
        await turns()
        assert stream.ends == {"a": number + 1}
        assert stream.replies[-1].completion.text == f"answer to x{number}"
    stream.send(pb.GenerateRequest(cancel="a"))  # it is over: that means nothing
    stream.half_close()
    await stream.reading
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_a_stream_that_is_cancelled_twice_leaves_nothing_either() -> None:
    batching, stream = await begin()
    stream.send(start("a", "x", timeout_s=60))
    await batching.sent()
    stream.reading.cancel()
    await asyncio.sleep(0)
    await stream.abort()
    await turns()
    assert [call.cancelled for call in batching.upstream.calls] == [True]
    await turns()
    batching.check_nothing_leaks()


@virtual_time
async def test_a_stream_too_many_is_refused_until_another_ends() -> None:
    batching = Batching()
    await batching.connect()
    cache = batching.cache
    tickets = Tickets(cache.store.deferred, cache.prompts, poll_s=1.0, failed=lambda *_: None)
    conversations = Conversations(
        batching.batcher, tickets, LIMITS, strategy=Strategy.FAN_OUT, streams_max=1
    )

    async def asks_for_ever() -> AsyncIterator[pb.GenerateRequest]:
        await asyncio.Event().wait()
        yield pb.GenerateRequest()

    for _ in range(2):
        stream = conversations.hold(asks_for_ever())
        reading = asyncio.ensure_future(anext(stream))
        await turns()
        with pytest.raises(QueueFullError, match="1 streams"):
            conversations.hold(asks_for_ever())
        reading.cancel()
        await asyncio.wait([reading])
    batching.check_nothing_leaks()
