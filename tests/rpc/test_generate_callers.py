"""``Generate``: callers who leave, wait, read slowly or are too many, and a sidecar that stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.talk import FOREVER, Talk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.conftest import Serve
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

RESOURCE_EXHAUSTED, UNAVAILABLE = 8, 14


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("how", ["cancel", "break off"])
async def test_who_leaves_ends_the_call(
    generating: Generating, upstream: ScriptedUpstream, how: str, *, begun: bool
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    call = await upstream.call()
    if begun:
        call.begin()
        call.say("1")
        await talk.delta("a")
    if how == "cancel":
        await talk.cancel("a")
    else:
        talk.break_off()
    await call.gone.wait()
    again = Talk(stub)
    await again.start("a", "x")
    (await upstream.call()).answer("2")
    assert (await again.end("a")).text == "2"
    assert (await stub.Stats(pb.StatsRequest())).batcher.upstream_calls["cancelled"] == 1


async def test_one_of_two_leaves(generating: Generating, upstream: ScriptedUpstream) -> None:
    stub = await generating()
    one, other = Talk(stub), Talk(stub)
    await one.start("a", "x")
    call = await upstream.call()
    call.begin()
    call.say("1")
    await one.delta("a")
    await other.start("b", "x")
    await other.delta("b")
    one.break_off()
    call.say("2")
    assert await other.delta("b") == "2"
    call.end()
    done = await other.end("b")
    # Somebody has to account for what it cost: who is left.
    assert done.source == pb.ANSWER_SOURCE_UPSTREAM
    assert done.cost_usd > 0


async def test_a_full_queue_refuses_with_a_time(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**FOREVER, batch_queue_max=2, batch_max=3)
    talk = Talk(stub)
    await talk.start("a", "1")
    await talk.start("b", "2")
    await talk.start("c", "3")
    error = (await talk.reply()).error  # of the one that came last: they look up the cache first
    assert error.code == RESOURCE_EXHAUSTED
    assert error.retry_after.seconds == 60  # when the batch closes at the latest
    stats = (await stub.Stats(pb.StatsRequest())).batcher
    assert (stats.queued, stats.queue_max, stats.rejected) == (2, 2, 1)
    for request_id in "abc":  # before the sidecar's end, which would send them
        await talk.cancel(request_id)
    await talk.finish()
    assert upstream.calls == 0


async def test_a_slow_reader_holds_up_nobody(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    slow, quick = Talk(stub), Talk(stub)
    await slow.start("s", "slow")
    big = await upstream.call()
    big.begin()
    part = "x" * 65_536
    for number in range(100):
        big.say(part)
        await quick.start(str(number), str(number))
        (await upstream.call()).answer("done")
        await quick.end(str(number))
    big.end()
    parts = 0
    reply = await slow.reply()
    while reply.WhichOneof("event") == "delta":
        parts += 1
        reply = await slow.reply()
    assert len(reply.completion.text) == 100 * len(part)
    assert parts < 100, "what it did not read in time is joined"


async def test_a_sidecar_that_stops_finishes_what_is_under_way(
    generating: Generating, upstream: ScriptedUpstream, serve: Serve
) -> None:
    stub = await generating(drain_s=30.0)
    talk, idle = Talk(stub), Talk(stub)
    await idle.start("a", "first")
    (await upstream.call()).answer("1")
    await idle.end("a")
    await talk.start("a", "x")
    call = await upstream.call()
    stopping = serve.stop()
    await idle.finish()  # a stream with nothing under way ends
    await talk.start("b", "y")
    assert (await talk.error("b")).code == UNAVAILABLE
    call.answer("yes")
    assert (await talk.end("a")).text == "yes"
    await talk.finish()
    await stopping
