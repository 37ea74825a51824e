"""``Generate`` and what comes over the wire from Anthropic: split, cut, silent, strange."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_upstream import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import Talk, identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import Call, ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

RESOURCE_EXHAUSTED, UNAVAILABLE = 8, 14
TEXT = 'Naïve "café" 猫 🐈\n\nevent: ping\ndata: {}\n\n\\n'
"""With characters of two, three and four bytes, and with lines like those of the protocol."""


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the SDK repeat calls at once where no ``retry-after`` says when."""
    import anthropic._base_client as sdk

    monkeypatch.setattr(sdk, "INITIAL_RETRY_DELAY", 0.001)


async def outcomes(stub: CacheServiceAsyncStub) -> dict[str, int]:
    """How calls on Anthropic have ended."""
    calls = (await stub.Stats(pb.StatsRequest())).batcher.upstream_calls
    return {name: count for name, count in calls.items() if count}


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7])
async def test_events_may_be_split_anywhere(
    generating: Generating, upstream: ScriptedUpstream, piece_bytes: int
) -> None:
    talk = Talk(await generating())
    await talk.start("a")
    call = await upstream.call()
    call.piece_bytes = piece_bytes
    call.begin()
    for character in TEXT:
        call.say(character)
    call.end()
    seen = ""
    reply = await talk.reply()
    while reply.WhichOneof("event") == "delta":
        seen += reply.delta
        reply = await talk.reply()
    assert seen == reply.completion.text == TEXT
    assert reply.completion.usage.output_tokens == TOKENS_OUT


async def test_only_text_is_delivered(generating: Generating, upstream: ScriptedUpstream) -> None:
    talk = Talk(await generating())
    await talk.start("a")
    call = await upstream.call()
    call.begin()
    call.close_block()
    call.send("ping")
    call.open_block({"type": "thinking", "thinking": "", "signature": ""})
    call.grow_block({"type": "thinking_delta", "thinking": "Hm."})
    call.grow_block({"type": "signature_delta", "signature": "c2ln"})
    call.close_block()
    call.open_block({"type": "text", "text": ""})
    call.say("One")
    call.grow_block({"type": "citations_delta", "citation": {"type": "unheard_of"}})
    call.grow_block({"type": "unheard_of_delta", "text": "not this"})
    call.send("unheard_of", delta={"type": "text_delta", "text": "nor this"})
    call.close_block()
    call.send_bytes(b": a comment\n\nevent: ping\ndata: {}\n\nevent: ping\n\n")
    call.open_block({"type": "text", "text": ""})
    call.say("Two")
    call.end()
    assert (await talk.end("a")).text == "OneTwo"


@pytest.mark.parametrize("blocks", [0, 1, 2])
async def test_an_empty_answer_is_delivered_and_not_kept(
    generating: Generating, upstream: ScriptedUpstream, blocks: int
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    call = await upstream.call()
    call.begin()
    for _ in range(blocks):
        call.say("")
    call.end()
    done = await talk.end("a")
    assert (done.text, done.usage.input_tokens) == ("", TOKENS_IN)
    assert done.cost_usd > 0
    asked = pb.GetPromptRequest(identity=identity("x"), peek=True)
    assert (await stub.GetPrompt(asked)).WhichOneof("outcome") == "miss"


def before_headers(call: Call) -> None:
    call.cut()


def between_events(call: Call) -> None:
    call.begin()
    call.say("half")
    call.cut()


def within_an_event(call: Call) -> None:
    call.begin()
    call.say("half")
    call.send_bytes(b'event: content_block_delta\ndata: {"type": "content_bl')
    call.cut()


def within_a_character(call: Call) -> None:
    call.begin()
    call.say("half")
    call.send_bytes('event: content_block_delta\ndata: {"type": "é'.encode()[:-1])
    call.cut()


def before_the_stop(call: Call) -> None:
    call.begin()
    call.say("half")
    call.sum_up()
    call.cut()


def closed_in_good_order(call: Call) -> None:
    call.begin()
    call.say("half")
    call.sum_up()
    call.close()


def closed_within_an_event(call: Call) -> None:
    call.begin()
    call.say("half")
    call.send_bytes(b'event: content_block_delta\ndata: {"type": "content_bl')
    call.close()


def not_even_json(call: Call) -> None:
    call.begin()
    call.say("half")
    call.send_bytes(b"event: content_block_delta\ndata: {half of a line\n\n")
    call.end()


def of_no_contract(call: Call) -> None:
    call.begin()
    call.say("half")
    call.send_bytes(b'event: content_block_delta\ndata: {"type": "content_block_delta"}\n\n')
    call.end()


def no_events(call: Call) -> None:
    call.answer_whole("not a stream")


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "breaks",
    [
        before_headers,
        between_events,
        within_an_event,
        within_a_character,
        before_the_stop,
        closed_in_good_order,
        closed_within_an_event,
        not_even_json,
        of_no_contract,
        no_events,
    ],
)
async def test_a_connection_that_breaks_fails_the_request_and_no_other(
    generating: Generating,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Call], None],
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    tries = 3 if breaks is before_headers else 1
    for _ in range(tries):
        breaks(await upstream.call())
    error = await talk.error("a")
    assert (error.code, error.message.startswith("the connection to Anthropic")) == (
        UNAVAILABLE,
        True,
    )
    assert await outcomes(stub) == {"failed": 1}
    assert upstream.calls == tries
    assert "half" not in caplog.text + error.message
    await talk.start("b", "x")
    (await upstream.call()).answer("whole")
    assert (await talk.end("b")).text == "whole"


async def test_what_breaks_after_the_end_does_no_harm(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    call = await upstream.call()
    call.begin()
    call.say("whole")
    call.sum_up()
    call.send("message_stop")
    assert (await talk.end("a")).text == "whole"
    call.cut()
    await talk.start("b", "x")
    assert (await talk.end("b")).source == pb.ANSWER_SOURCE_CACHE


async def test_connections_are_used_again(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    for name in "abcd":
        await talk.start(name)
        (await upstream.call()).answer("yes")
        await talk.end(name)
    assert upstream.connections == 1


async def test_silence_ends_the_call(generating: Generating, upstream: ScriptedUpstream) -> None:
    stub = await generating(upstream_timeout_s=1.0)
    talk = Talk(stub)
    await talk.start("a", "x")
    call = await upstream.call()
    call.begin()
    call.say("half")
    assert await talk.delta("a") == "half"
    error = await talk.error("a")
    assert (error.code, error.message) == (UNAVAILABLE, "Anthropic said nothing for 1 s")
    await call.gone.wait()
    assert await outcomes(stub) == {"timed_out": 1}
    assert upstream.calls == 1


@pytest.mark.usefixtures("quick_retries")
async def test_silence_before_the_answer_is_repeated_twice(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(upstream_timeout_s=0.2)
    talk = Talk(stub)
    await talk.start("a", "x")
    for _ in range(3):
        await (await upstream.call()).gone.wait()
    assert (await talk.error("a")).code == UNAVAILABLE
    assert await outcomes(stub) == {"timed_out": 1}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limit_error"), (529, "overloaded_error")])
async def test_a_refusal_without_a_time(
    generating: Generating, upstream: ScriptedUpstream, status: int, kind: str
) -> None:
    stub = await generating()
    talk = Talk(stub)
    await talk.start("a", "x")
    for _ in range(3):
        (await upstream.call()).refuse(status, kind)
    error = await talk.error("a")
    assert error.code == (RESOURCE_EXHAUSTED if status == 429 else UNAVAILABLE)
    assert error.retry_after.seconds == 1
    # Nothing said how long to wait: the next goes at once.
    await talk.start("b", "x")
    (await upstream.call()).answer("yes")
    assert (await talk.end("b")).text == "yes"


async def test_the_sdk_waits_by_itself_where_nothing_says_how_long(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating())
    await talk.start("a", "x")
    (await upstream.call()).refuse(429, "rate_limit_error")
    (await upstream.call()).answer("yes")
    assert (await talk.end("a")).text == "yes"
