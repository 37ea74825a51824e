"""``Generate`` when something is wrong: the request, the key, Anthropic, the caller, the queue."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.talk import MODEL, Talk, identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.conftest import Serve
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

INVALID_ARGUMENT, DEADLINE_EXCEEDED = 3, 4
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNAVAILABLE = 8, 9, 14


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"identity": pb.PromptIdentity(prompt="x")}, "identity.model"),
        ({"identity": pb.PromptIdentity(model=MODEL)}, "identity"),
        ({"identity": pb.PromptIdentity(model=MODEL, key=b"k" * 32)}, "identity.key"),
        ({"identity": identity("x", tools="[]")}, "identity.parameters[tools]"),
        ({"identity": identity("x", stream="true")}, "identity.parameters[stream]"),
        ({"identity": identity("x", system="not JSON")}, "identity.parameters[system]"),
        ({"identity": identity("x", max_tokens="0")}, "identity.parameters[max_tokens]"),
        ({"identity": identity("x", messages="[1]")}, "identity.parameters[messages]"),
        ({"identity": identity("", messages="[]")}, "identity.parameters[messages]"),
        ({"strategy": 77}, "strategy"),
        ({"cache": 77}, "cache"),
        ({"tags": ["t" * 257]}, "tags"),
        ({"masterplan": "m\n"}, "masterplan"),
    ],
)
async def test_a_bad_request_names_the_field_and_harms_nobody(
    generating: Generating, upstream: ScriptedUpstream, fields: dict[str, Any], named: str
) -> None:
    talk = Talk(await generating())
    await talk.start("good", "fine")
    await talk.start("bad", **fields)
    error = await talk.error("bad")
    assert error.code == INVALID_ARGUMENT
    assert error.message.startswith(f"{named}: ")
    (await upstream.call()).answer("yes")
    assert (await talk.end("good")).text == "yes"


async def test_ids_are_checked(generating: Generating, upstream: ScriptedUpstream) -> None:
    talk = Talk(await generating())
    for bad in ("", "i" * 129, "a\nb"):
        await talk.start(bad, "x")
        assert "start.id: " in (await talk.error("")).message
    await talk.send(pb.GenerateRequest())
    assert "action: " in (await talk.error("")).message
    await talk.start("a", "x")
    call = await upstream.call()
    await talk.start("a", "y")
    assert "'a' is under way" in (await talk.error("")).message
    await talk.cancel("unknown")
    call.answer("yes")
    await talk.end("a")
    # Its id is free again.
    await talk.start("a", "x")
    assert (await talk.end("a")).source == pb.ANSWER_SOURCE_CACHE


async def test_without_a_key_all_else_works(serve: Serve) -> None:
    stub = await serve()
    talk = Talk(stub)
    await talk.start("a", "x")
    error = await talk.error("a")
    assert error.code == FAILED_PRECONDITION
    assert "--anthropic-api-key-file" in error.message
    asked = pb.SetPromptRequest(identity=identity("x"), answer=b"y", content_type="text/plain")
    await stub.SetPrompt(asked)
    await talk.start("b", "x")
    assert (await talk.end("b")).text == "y"
    assert not (await stub.Stats(pb.StatsRequest())).batcher.has_key


async def test_the_key_file_is_read_again(
    generating: Generating, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    talk = Talk(await generating(anthropic_api_key="", anthropic_api_key_file=str(file)))
    await talk.start("a", "1")
    assert (await talk.error("a")).code == FAILED_PRECONDITION
    for request_id, key in (("b", "first"), ("c", "second, longer")):
        file.write_text(f"{key}\n")
        await talk.start(request_id, request_id)
        call = await upstream.call()
        assert call.headers["authorization"] == f"Bearer {key}"
        call.answer("yes")
        await talk.end(request_id)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((400, "invalid_request_error"), (INVALID_ARGUMENT, "failed")),
        ((401, "authentication_error"), (FAILED_PRECONDITION, "failed")),
        ((404, "not_found_error"), (INVALID_ARGUMENT, "failed")),
        ((429, "rate_limit_error"), (RESOURCE_EXHAUSTED, "rate_limited")),
        ((500, "api_error"), (UNAVAILABLE, "failed")),
        ((529, "overloaded_error"), (UNAVAILABLE, "overloaded")),
    ],
)
async def test_what_anthropic_refuses(
    generating: Generating,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    refusal: tuple[int, str],
    expected: tuple[int, str],
) -> None:
    (status, kind), (code, outcome) = refusal, expected
    caplog.set_level(logging.INFO)
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "my secret prompt")
    tries = 3 if status in {429, 500, 529} else 1  # the SDK's own
    for _ in range(tries):
        (await upstream.call()).refuse(status, kind, retry_after_ms="1")
    error = await talk.error("a")
    assert error.code == code
    assert kind in error.message
    assert "req_7" in error.message
    if status in {429, 529}:
        assert error.retry_after.nanos == 1_000_000
    stats = await stub.Stats(pb.StatsRequest())
    assert stats.batcher.upstream_calls[outcome] == 1
    assert stats.layers[0].total_writes == 0
    for secret in ("my secret prompt", "sk-secret"):
        assert secret not in error.message
        assert secret not in caplog.text


async def test_a_refusal_before_the_answer_is_made_good(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(upstream_calls_max=8)
    talk = Talk(stub)
    await talk.start("a", "x")
    (await upstream.call()).refuse(429, "rate_limit_error", retry_after_ms="1")
    (await upstream.call()).answer("yes")
    assert (await talk.end("a")).text == "yes"
    stats = (await stub.Stats(pb.StatsRequest())).batcher
    assert stats.upstream_calls["ok"] == 1
    assert stats.upstream_limit == 4  # halved; and 1/4 more


@pytest.mark.parametrize("how", ["cut", "error"])
async def test_nothing_is_repeated_once_the_answer_began(
    generating: Generating, upstream: ScriptedUpstream, how: str
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    call = await upstream.call()
    call.begin()
    call.say("half")
    assert await talk.delta("a") == "half"
    if how == "cut":
        call.cut()
    else:
        call.fail_amid("overloaded_error")
    error = await talk.error("a")
    assert error.code == UNAVAILABLE
    assert upstream.calls == 1
    asked = pb.GetPromptRequest(identity=identity("x"), peek=True)
    assert (await stub.GetPrompt(asked)).WhichOneof("outcome") == "miss"
    # The lease was given back: whoever asks next does not wait for a dead one.
    await talk.start("b", "x")
    (await upstream.call()).answer("whole")
    assert (await talk.end("b")).text == "whole"


async def test_an_upstream_that_is_down_is_left_alone(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    talk = Talk(stub)
    for number in range(3):
        await talk.start(str(number), str(number))
        call = await upstream.call()
        call.begin()
        call.cut()
        assert (await talk.error(str(number))).code == UNAVAILABLE
    assert (await stub.Stats(pb.StatsRequest())).batcher.upstream_breaker_open
    await talk.start("a", "x")
    error = await talk.error("a")
    assert error.code == UNAVAILABLE
    assert error.retry_after.seconds == 5
    assert upstream.calls == 3


async def test_time_is_over(generating: Generating, upstream: ScriptedUpstream) -> None:
    talk = Talk(await generating())
    start = pb.GenerateStart(id="a", identity=identity("x"))
    start.timeout.FromMilliseconds(1500)
    await talk.send(pb.GenerateRequest(start=start))
    call = await upstream.call()
    error = await talk.error("a")
    assert error.code == DEADLINE_EXCEEDED
    assert "1.5 s" in error.message
    await call.gone.wait()


async def test_bytes_that_are_no_message_end_the_stream(
    generating: Generating, serve: Serve
) -> None:
    await generating()
    async with grpc.aio.insecure_channel(serve.target) as channel:
        method: Any = channel.stream_stream
        raw = method("/mge_cache.v1.CacheService/Generate")()
        await raw.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
