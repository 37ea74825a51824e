"""The strategy ``deferred`` against a real sidecar and a real HTTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_batches import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import MODEL, Talk, identity
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

COST_USD = (TOKENS_IN * 3 + TOKENS_OUT * 15) / 1e6 / 2
AT_ONCE: dict[str, Any] = {"deferred_window_s": 0.0, "deferred_poll_s": 0.05}
DEFERRED = pb.STRATEGY_DEFERRED
NOT_FOUND, DEADLINE, UNAVAILABLE, INVALID = 5, 4, 14, 3


class DeferredTalk(Talk):
    """Asks deferred questions, and fetches."""

    async def defer(self, request_id: str, prompt: str, **fields: Any) -> None:
        await self.start(request_id, prompt, strategy=DEFERRED, **fields)

    async def fetch(self, request_id: str, *, wait_s: int = 0) -> pb.GenerateResponse:
        fetch = pb.GenerateFetch(id=request_id)
        fetch.timeout.seconds = wait_s
        await self.send(pb.GenerateRequest(fetch=fetch))
        reply = await self.reply()
        assert reply.id == request_id
        return reply

    async def fetch_error(self, request_id: str) -> int:
        reply = await self.fetch(request_id)
        assert reply.WhichOneof("event") == "error", reply
        return reply.error.code


async def under_way(stub: CacheServiceAsyncStub) -> int:
    stats = await stub.Stats(pb.StatsRequest())
    return stats.batcher.deferred_requests


async def peeked(stub: CacheServiceAsyncStub, prompt: str) -> bytes:
    request = pb.GetPromptRequest(identity=identity(prompt), peek=True)
    return (await stub.GetPrompt(request)).hit.answer


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


async def test_it_stays_in_its_batch_when_all_callers_have_left(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    await talk.cancel("a")
    assert await talk.fetch_error("a") == DEADLINE
    batch.answer(x="late")
    fetched = await talk.fetch("a", wait_s=60)
    assert fetched.completion.text == "late"
    assert fetched.completion.source == pb.ANSWER_SOURCE_CACHE
    assert fetched.completion.cost_saved_usd == pytest.approx(COST_USD)
    assert await peeked(stub, "x") == b"late"


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


async def test_an_invalidation_overtakes_the_answer(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x", masterplan="plan-1")
    batch = await upstream.batches.next()
    await stub.Invalidate(pb.InvalidateRequest(masterplan="plan-1"))
    batch.answer(x="stale")
    assert (await talk.end("a")).text == "stale"
    assert await peeked(stub, "x") == b""
    assert await talk.fetch_error("a") == NOT_FOUND


async def test_refresh_is_overtaken_too(generating: Generating, upstream: ScriptedUpstream) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    stored = pb.SetPromptRequest(identity=identity("x"), answer=b"old", content_type="text/plain")
    await stub.SetPrompt(stored)
    await talk.defer("a", "x", cache=pb.CACHE_USE_REFRESH, tags=["t"])
    batch = await upstream.batches.next()
    # What the cache has is not what was asked for.
    assert await DeferredTalk(stub).fetch_error("a") == DEADLINE
    await stub.Invalidate(pb.InvalidateRequest(tag="t"))
    batch.answer(x="stale")
    assert (await talk.end("a")).text == "stale"
    assert await peeked(stub, "x") == b"old"
    await talk.defer("b", "x", cache=pb.CACHE_USE_REFRESH)
    (await upstream.batches.next()).answer(x="new")
    assert (await talk.end("b")).text == "new"
    assert (await talk.fetch("b")).completion.text == "new"


async def test_failures_reach_their_own_callers_only(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(deferred_max=6, deferred_poll_s=0.05)
    talk = DeferredTalk(stub)
    for prompt in "abcdef":
        await talk.defer(prompt, prompt)
    batch = await upstream.batches.next()
    batch.end(
        batch.errored("a", "invalid_request_error"),
        batch.ended("b", "expired"),
        batch.succeeded("c", "fine"),
        batch.ended("d", "canceled"),
        batch.errored("e", "api_error"),
    )
    replies = {}
    for _ in range(6):
        reply = await talk.reply()
        replies[reply.id] = reply
    assert replies["c"].completion.text == "fine"
    codes = {key: replies[key].error.code for key in "abdef"}
    assert codes == {"a": INVALID, "b": UNAVAILABLE, "d": UNAVAILABLE, "e": 14, "f": 14}
    assert "no: a" not in replies["a"].error.message
    for key, code in codes.items():
        # Failures can be fetched too.
        fetched = await talk.fetch(key)
        assert (fetched.error.code, fetched.error.message) == (
            code,
            replies[key].error.message,
        )
    # Their leases were given back: the next caller asks at once.
    for prompt in "abdef":
        await talk.defer(f"again {prompt}", prompt)
    await talk.defer("more", "g")
    assert sorted((await upstream.batches.next()).prompts) == list("abdefg")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", INVALID),
        (401, "authentication_error", 9),
        (500, "api_error", 14),
    ],
)
async def test_a_batch_that_is_refused(
    generating: Generating, upstream: ScriptedUpstream, status: int, kind: str, code: int
) -> None:
    talk = DeferredTalk(await generating(**AT_ONCE))
    upstream.batches.refusals.append((status, kind, {}))
    await talk.defer("a", "x")
    assert (await talk.error("a")).code == code
    assert await talk.fetch_error("a") == code
    await talk.defer("b", "x")
    (await upstream.batches.next()).answer(x="now")
    assert (await talk.end("b")).text == "now"


async def test_a_rate_limit_delays_a_batch(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = DeferredTalk(await generating(**AT_ONCE))
    for _ in range(2):
        upstream.batches.refusals.append((429, "rate_limit_error", {"retry-after-ms": "1"}))
    await talk.defer("a", "x")
    (await upstream.batches.next()).answer(x="late")
    assert (await talk.end("a")).text == "late"


async def test_polls_that_fail_lose_nothing(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    upstream.batches.down = 400
    batch.answer(x="in the end")

    async def failed() -> bool:
        stats = await stub.Stats(pb.StatsRequest())
        return stats.batcher.upstream_calls["failed"] >= 2

    assert await eventually(failed)
    upstream.batches.down = 0
    assert (await talk.end("a")).text == "in the end"


async def test_without_a_key(generating: Generating) -> None:
    talk = DeferredTalk(await generating(anthropic_api_key="", **AT_ONCE))
    await talk.defer("a", "x")
    assert (await talk.error("a")).code == 9


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal"])
async def test_what_is_not_whole_is_delivered_but_not_kept(
    generating: Generating, upstream: ScriptedUpstream, stop_reason: str
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    batch.end(batch.succeeded("x", "half", stop_reason))
    done = await talk.end("a")
    assert (done.text, done.stop_reason) == ("half", stop_reason)
    assert await peeked(stub, "x") == b""
    assert await talk.fetch_error("a") == NOT_FOUND
    stats = await stub.Stats(pb.StatsRequest())
    assert stats.layers[0].spent_usd == pytest.approx(COST_USD)


async def test_bypass_reaches_those_who_wait(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x", cache=pb.CACHE_USE_BYPASS)
    (await upstream.batches.next()).answer(x="not kept")
    assert (await talk.end("a")).text == "not kept"
    assert await peeked(stub, "x") == b""
    assert await talk.fetch_error("a") == NOT_FOUND


async def test_a_fetch_of_what_nobody_asked(generating: Generating) -> None:
    talk = DeferredTalk(await generating())
    assert await talk.fetch_error("a") == NOT_FOUND
    await talk.send(pb.GenerateRequest(fetch=pb.GenerateFetch(id="")))
    assert (await talk.error("")).code == INVALID
    await talk.send(pb.GenerateRequest(fetch=pb.GenerateFetch(id="a", namespace="/")))
    assert (await talk.error("a")).code == INVALID


async def test_ids_are_of_a_namespace(generating: Generating, upstream: ScriptedUpstream) -> None:
    talk = DeferredTalk(await generating(**AT_ONCE))
    await talk.defer("a", "", identity=pb.PromptIdentity(namespace="n", model=MODEL, prompt="x"))
    (await upstream.batches.next()).answer(x="here")
    assert (await talk.end("a")).text == "here"
    assert await talk.fetch_error("a") == NOT_FOUND
    await talk.send(pb.GenerateRequest(fetch=pb.GenerateFetch(id="a", namespace="n")))
    assert (await talk.end("a")).text == "here"


async def test_a_fetch_ends_with_its_stream(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**AT_ONCE)
    talk, other = DeferredTalk(stub), DeferredTalk(stub)
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    fetch = pb.GenerateFetch(id="a")
    fetch.timeout.seconds = 60
    for _ in range(2):
        await other.send(pb.GenerateRequest(fetch=fetch))
    assert (await other.error("")).code == INVALID  # it is under way on this stream
    await other.cancel("a")
    assert await other.fetch_error("b") == NOT_FOUND
    other.break_off()
    batch.answer(x="1")
    assert (await talk.end("a")).text == "1"


async def test_stopping_leaves_the_batch_to_another_sidecar(
    serve: Any, generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, Any]
) -> None:
    in_memory = store_settings["redis_url"] == "memory://"
    talk = DeferredTalk(await generating(**{**store_settings, **AT_ONCE}))
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    await eventually(lambda: batch.polls)
    await serve.stop_latest()
    failure = await talk.error("a")
    assert failure.code == UNAVAILABLE
    assert ("fetch the answer later" in failure.message) is not in_memory
    if in_memory:
        return
    other = DeferredTalk(await generating(**{**store_settings, **AT_ONCE}))
    batch.answer(x="later")
    assert (await other.fetch("a", wait_s=60)).completion.text == "later"


async def test_stopping_sends_what_waits(
    serve: Any, generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, Any]
) -> None:
    stub = await generating(**store_settings, deferred_poll_s=0.05)
    talk = DeferredTalk(stub)
    await talk.defer("a", "x")

    async def queued() -> bool:
        return bool((await stub.Stats(pb.StatsRequest())).batcher.queued)

    assert await eventually(queued)
    assert await DeferredTalk(stub).fetch_error("a") == DEADLINE
    assert not upstream.batches.sent
    await serve.stop_latest()
    assert (await talk.error("a")).code == UNAVAILABLE
    assert upstream.batches.sent[0].prompts == ["x"]


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
