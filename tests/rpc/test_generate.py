"""``Generate`` against a real sidecar and a real HTTP server: answers, sharing, the cache."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_upstream import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import MODEL, Talk, identity
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

_PATIENCE_S = 30.0
COST_USD = (TOKENS_IN * 2 + TOKENS_OUT * 10) / 1e6


async def _upstream_is_idle(stub: CacheServiceAsyncStub) -> bool:
    batcher = (await stub.Stats(pb.StatsRequest())).batcher
    return batcher.upstream_in_flight == 0


async def _is_hit(stub: CacheServiceAsyncStub, asked: pb.GetPromptRequest) -> bool:
    return (await stub.GetPrompt(asked)).WhichOneof("outcome") == "hit"


async def test_the_text_arrives_as_it_grows(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    await talk.start("a", "How are you?")

    call = await upstream.call()
    call.begin()
    call.say("Fine")
    assert await talk.delta("a") == "Fine"
    call.say(", thanks.")
    assert await talk.delta("a") == ", thanks."
    call.end()

    done = await talk.end("a")
    assert done.text == "Fine, thanks."
    assert done.stop_reason == "end_turn"
    assert done.usage == pb.Usage(input_tokens=TOKENS_IN, output_tokens=TOKENS_OUT)
    assert done.cost_usd == pytest.approx(COST_USD)
    assert (done.source, done.batch_size) == (pb.ANSWER_SOURCE_UPSTREAM, 1)
    assert done.strategy == pb.STRATEGY_FAN_OUT
    await talk.finish()


async def test_the_next_call_uses_the_same_connection(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    talk = Talk(stub)
    ports = set()
    for request_id in ("a", "b", "c"):
        await talk.start(request_id)
        call = await upstream.call()
        ports.add(call.port)
        call.answer("Hello.")
        await talk.end(request_id)
        # Whoever has its answer does not wait for the connection: the next call could be too early.
        await eventually(lambda: _upstream_is_idle(stub))
    assert len(ports) == 1


async def test_an_answer_does_not_wait_for_the_end_of_the_stream(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    await talk.start("a")
    call = await upstream.call()
    call.begin()
    call.say("Hello.")
    call.end(closed=False)
    assert (await talk.end("a")).text == "Hello."
    await asyncio.wait_for(call.gone.wait(), _PATIENCE_S)  # the connection is given up


async def test_what_is_sent_to_anthropic(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    parameters = {"system": '"Be brief."', "max_tokens": "64", "top_p": "0.5", "new": '{"a":[1]}'}
    asked = identity("Hello", **parameters)
    asked.temperature = 0.0
    await talk.start("a", identity=asked)

    call = await upstream.call()

    assert call.body == {
        "model": MODEL,
        "max_tokens": 64,
        "stream": True,
        "temperature": 0.0,
        "top_p": 0.5,
        "system": "Be brief.",
        "new": {"a": [1]},
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert call.headers["authorization"] == "Bearer sk-secret"
    call.answer("Hi")
    await talk.end("a")


async def test_messages_in_place_of_a_prompt(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    messages = '[{"role":"user","content":"1"},{"role":"assistant","content":"2"}]'
    await talk.start(
        "a", identity=pb.PromptIdentity(model=MODEL, parameters={"messages": messages})
    )
    call = await upstream.call()
    assert [each["content"] for each in call.body["messages"]] == ["1", "2"]
    assert call.body["max_tokens"] == 4096
    call.answer("3")
    assert (await talk.end("a")).text == "3"


async def test_an_answer_is_cached_for_everybody(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x", masterplan="plan-1")
    (await upstream.call()).answer("yes", "stop_sequence")
    await talk.end("a")

    await talk.start("b", "x")
    cached = await talk.end("b")
    assert (cached.text, cached.stop_reason) == ("yes", "stop_sequence")
    assert (cached.source, cached.batch_size) == (pb.ANSWER_SOURCE_CACHE, 0)
    assert cached.strategy == pb.STRATEGY_UNSPECIFIED
    assert cached.cost_usd == 0
    assert cached.cost_saved_usd == pytest.approx(COST_USD)
    looked_up = await stub.GetPrompt(pb.GetPromptRequest(identity=identity("x")))
    assert looked_up.hit.answer == b"yes"

    await stub.Invalidate(pb.InvalidateRequest(masterplan="plan-1"))
    await talk.start("c", "x")
    (await upstream.call()).answer("no")
    assert (await talk.end("c")).text == "no"
    stats = await stub.Stats(pb.StatsRequest())
    assert stats.layers[0].total_hits == 2
    assert stats.layers[0].total_misses == 2
    assert stats.layers[0].spent_usd == pytest.approx(2 * COST_USD)


async def test_what_setprompt_stored_is_found(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    stored = pb.SetPromptRequest(
        identity=identity("x"), answer=b"stored", content_type="text/plain"
    )
    await stub.SetPrompt(stored)
    talk = Talk(stub)
    await talk.start("a", "x")
    assert (await talk.end("a")).text == "stored"
    assert upstream.calls == 0


async def test_what_is_no_text_is_asked_for_and_stays(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    await stub.SetPrompt(pb.SetPromptRequest(identity=identity("x"), answer=b"\xff\x00"))
    talk = Talk(stub)
    await talk.start("a", "x")
    (await upstream.call()).answer("text")
    assert (await talk.end("a")).text == "text"
    kept = await stub.GetPrompt(pb.GetPromptRequest(identity=identity("x")))
    assert kept.hit.answer == b"\xff\x00"


async def test_equal_requests_share_one_call(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    one, other = Talk(stub), Talk(stub)
    await one.start("a", "x")
    call = await upstream.call()
    call.begin()
    call.say("begun")
    assert await one.delta("a") == "begun"

    await other.start("late", "x", masterplan="mine")
    assert await other.delta("late") == "begun"  # replayed
    call.say(" done")
    call.end()

    bought, shared = await one.end("a"), await other.end("late")
    assert bought.text == shared.text == "begun done"
    assert bought.source == pb.ANSWER_SOURCE_UPSTREAM
    assert shared.source == pb.ANSWER_SOURCE_FLIGHT
    assert [bought.cost_usd, bought.cost_saved_usd] == pytest.approx([COST_USD, 0])
    assert [shared.cost_usd, shared.cost_saved_usd] == pytest.approx([0, COST_USD])
    assert upstream.calls == 1
    # The answer is invalidated by what any of them named.
    await stub.Invalidate(pb.InvalidateRequest(masterplan="mine"))
    looked_up = await stub.GetPrompt(pb.GetPromptRequest(identity=identity("x"), peek=True))
    assert looked_up.WhichOneof("outcome") == "miss"


async def test_each_request_that_the_cache_answers_is_a_hit(
    generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, object]
) -> None:
    stub = await generating(**store_settings, l1_max_bytes=0)
    talk = Talk(stub)
    await talk.start("first", "x")
    (await upstream.call()).answer("cached")
    await talk.end("first")
    asked = pb.GetPromptRequest(identity=identity("x"), peek=True)
    await eventually(lambda: _is_hit(stub, asked))

    # Some share one look-up, as the store takes a while.
    for number in range(50):
        await talk.start(str(number), "x")
    done = (await talk.ends(50)).values()

    assert {each.source for each in done} == {pb.ANSWER_SOURCE_CACHE}
    layer = (await stub.Stats(pb.StatsRequest())).layers[0]
    assert layer.total_hits == 50
    assert layer.saved_usd == pytest.approx(50 * COST_USD)


async def test_two_sidecars_make_one_call(
    generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, object]
) -> None:
    if store_settings["redis_url"] == "memory://":
        pytest.skip("a store in memory has one sidecar")
    one, other = Talk(await generating(**store_settings)), Talk(await generating(**store_settings))
    await one.start("a", "x")
    call = await upstream.call()
    await other.start("b", "x")
    call.answer("once")
    assert (await one.end("a")).text == "once"
    assert (await other.end("b")).text == "once"
    assert upstream.calls == 1


async def test_refresh_asks_anew_and_stores(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    for request_id, text in (("a", "old"), ("b", "new")):
        await talk.start(request_id, "x", cache=pb.CACHE_USE_REFRESH)
        (await upstream.call()).answer(text)
        assert (await talk.end(request_id)).text == text
    await talk.start("c", "x")
    assert (await talk.end("c")).text == "new"


async def test_bypass_shares_and_stores_nothing(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    talk = Talk(stub)
    for request_id in "ab":
        await talk.start(request_id, "x", cache=pb.CACHE_USE_BYPASS)
    for call in [await upstream.call(), await upstream.call()]:
        call.answer("each its own")
    done = await talk.ends(2)
    assert {each.source for each in done.values()} == {pb.ANSWER_SOURCE_UPSTREAM}
    stats = await stub.Stats(pb.StatsRequest())
    assert (stats.layers[0].total_writes, stats.layers[0].total_misses) == (0, 0)
    assert stats.layers[0].spent_usd == pytest.approx(2 * COST_USD)


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "pause_turn"])
async def test_what_is_not_whole_is_delivered_but_not_cached(
    generating: Generating, upstream: ScriptedUpstream, stop_reason: str
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    (await upstream.call()).answer("half", stop_reason)
    done = await talk.end("a")
    assert (done.text, done.stop_reason) == ("half", stop_reason)
    looked_up = await stub.GetPrompt(pb.GetPromptRequest(identity=identity("x"), peek=True))
    assert looked_up.WhichOneof("outcome") == "miss"
    stats = await stub.Stats(pb.StatsRequest())
    assert stats.layers[0].spent_usd == pytest.approx(COST_USD)
    # Its lease was given back: the next caller asks at once.
    await talk.start("b", "x")
    (await upstream.call()).answer("whole")
    assert (await talk.end("b")).text == "whole"
