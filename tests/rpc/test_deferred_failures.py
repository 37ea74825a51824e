"""The strategy ``deferred``: failures, invalidations, the end of a sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.deferred_talk import (
    AT_ONCE,
    COST_USD,
    DEADLINE,
    INVALID,
    NOT_FOUND,
    UNAVAILABLE,
    DeferredTalk,
    peeked,
)
from tests.rpc.talk import identity
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]


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


async def test_stopping_leaves_the_batch_to_another_sidecar(
    serve: Any, generating: Generating, upstream: ScriptedUpstream, store_settings: dict[str, Any]
) -> None:
    in_memory = store_settings["redis_url"] == "memory://"
    talk = DeferredTalk(await generating(**{**store_settings, **AT_ONCE}))
    await talk.defer("a", "x")
    batch = await upstream.batches.next()
    await eventually(lambda: batch.polls)
    await serve.stop()
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
    await serve.stop()
    assert (await talk.error("a")).code == UNAVAILABLE
    assert upstream.batches.sent[0].prompts == ["x"]
