"""The strategy ``deferred`` against a real sidecar and a real HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.deferred_talk import (
    AT_ONCE,
    COST_USD,
    DEADLINE,
    DEFERRED,
    NOT_FOUND,
    DeferredTalk,
    under_way,
)
from tests.rpc.scripted_batches import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import MODEL, identity
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]


async def test_a_batch_is_answered_and_costs_half(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(deferred_max=2, deferred_poll_s=0.05)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x", masterplan="plan-1")
    await talk.defer("b", "y")
    batch = await upstream.batches.next()
    assert await under_way(stub) == 2
    batch.answer(x="to x", y="to y")
    done = await talk.ends(2)
    assert {key: each.text for key, each in done.items()} == {"a": "to x", "b": "to y"}
    for each in done.values():
        assert (each.strategy, each.batch_size) == (DEFERRED, 2)
        assert each.source == pb.ANSWER_SOURCE_UPSTREAM
        assert each.usage == pb.Usage(input_tokens=TOKENS_IN, output_tokens=TOKENS_OUT)
        assert each.cost_usd == pytest.approx(COST_USD)
    stats = await stub.Stats(pb.StatsRequest())
    assert stats.layers[0].spent_usd == pytest.approx(2 * COST_USD)
    assert stats.layers[0].total_writes == 2
    assert stats.batcher.batches_by_strategy["deferred"] == 1
    assert upstream.calls == 0
    await talk.start("c", "x")
    again = await talk.end("c")
    assert (again.text, again.source) == ("to x", pb.ANSWER_SOURCE_CACHE)
    assert again.cost_saved_usd == pytest.approx(COST_USD)

    async def over() -> bool:
        return await under_way(stub) == 0

    assert await eventually(over)
    await talk.finish()


async def test_what_is_sent_to_anthropic(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = DeferredTalk(await generating(**AT_ONCE))
    parameters = {"system": '"Be brief."', "max_tokens": "64", "new": '{"a":[1]}'}
    asked = identity("Hello", **parameters)
    asked.temperature = 0.5
    await talk.defer("a", "", identity=asked)
    batch = await upstream.batches.next()
    [request] = batch.requests
    assert request["params"] == {
        "model": MODEL,
        "max_tokens": 64,
        "temperature": 0.5,
        "system": "Be brief.",
        "new": {"a": [1]},
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert 1 <= len(request["custom_id"]) <= 64
    assert set(request["custom_id"]) <= set("0123456789abcdef-")
    # Which of the two, is the SDK's affair.
    credentials = {batch.headers.get("x-api-key"), batch.headers.get("authorization")}
    assert credentials & {"sk-secret", "Bearer sk-secret"}


async def test_questions_of_all_kinds_share_a_batch(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = DeferredTalk(await generating(deferred_max=2, deferred_poll_s=0.05))
    await talk.defer("a", "", identity=identity("x", system='"one"'))
    await talk.defer("b", "", identity=identity("y", system='"other"'))
    batch = await upstream.batches.next()
    batch.answer(x="1", y="2")
    assert {each.batch_size for each in (await talk.ends(2)).values()} == {2}


async def test_whoever_leaves_before_it_was_sent_takes_it_out(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(deferred_max=2, deferred_poll_s=0.05)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")
    await talk.cancel("a")
    await talk.defer("b", "y")
    await talk.defer("c", "z")
    batch = await upstream.batches.next()
    assert sorted(batch.prompts) == ["y", "z"]

    async def forgotten() -> bool:
        return await talk.fetch_error("a") == NOT_FOUND

    assert await eventually(forgotten)


async def test_two_sidecars_send_an_equal_question_once(
    generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, Any]
) -> None:
    if store_settings["redis_url"] == "memory://":
        pytest.skip("a store in memory has one sidecar")
    settings = {**store_settings, **AT_ONCE}
    one, other = (
        DeferredTalk(await generating(**settings)),
        DeferredTalk(await generating(**settings)),
    )
    await one.defer("a", "x")
    batch = await upstream.batches.next()
    await other.defer("b", "x")
    assert await other.fetch_error("a") == DEADLINE
    batch.answer(x="once")
    assert (await one.end("a")).text == "once"
    shared = await other.end("b")
    assert (shared.text, shared.source) == ("once", pb.ANSWER_SOURCE_CACHE)
    assert len(upstream.batches.sent) == 1
    for talk in (one, other):
        for request_id in "ab":
            assert (await talk.fetch(request_id)).completion.text == "once"


async def test_whoever_asks_again_waits_for_the_same_answer(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = DeferredTalk(await generating(**AT_ONCE))
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    await talk.cancel("a")
    await talk.defer("b", "x")
    await talk.start("c", "x")
    batch.answer(x="once")
    assert {each.text for each in (await talk.ends(2)).values()} == {"once"}
    assert (len(upstream.batches.sent), upstream.calls) == (1, 0)


async def test_a_look_up_waits_for_a_deferred_answer(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    await talk.cancel("a")
    request = pb.GetPromptRequest(identity=identity("x"))
    assert (await stub.GetPrompt(request)).miss.in_progress
    request.wait.seconds = 60
    waiting: grpc.aio.UnaryUnaryCall[Any, pb.GetPromptResponse] = stub.GetPrompt(request)
    batch.answer(x="there")
    assert (await waiting).hit.answer == b"there"
