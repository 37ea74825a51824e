"""Deferred answers that are fetched later, or by those who still wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.deferred_talk import (
    AT_ONCE,
    COST_USD,
    DEADLINE,
    INVALID,
    NOT_FOUND,
    DeferredTalk,
    peeked,
)
from tests.rpc.talk import MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]


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
