"""Calls that are made ready while the cache is asked: sent only if they are needed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.batch_counts import BatchCounts
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.upstream import Upstream, UpstreamPolicy
from mge_cache_server.upstream_events import Begun, Ended
from tests.rpc.conftest import settings_of
from tests.rpc.talk import MODEL, Talk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from mge_cache_server.upstream_ahead import Ahead
    from tests.rpc.scripted_upstream import ScriptedUpstream

BODY = {"model": MODEL, "max_tokens": 10}
HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
OTHER: list[dict[str, str]] = [{"role": "user", "content": "other"}]


class Ready:
    """An ``Upstream`` whose SDK is loaded, as the first call has been made."""

    def __init__(self, server: ScriptedUpstream, key_file: Path) -> None:
        self.server = server
        self.key_file = key_file
        policy = UpstreamPolicy(str(key_file), "", server.url, silence_s=30.0, calls_max=2)
        self.upstream = Upstream(policy, BatchCounts(BatchHistograms()))

    def ahead(self) -> Ahead:
        made = self.upstream.make_ahead(BODY, HELLO)
        assert made is not None
        return made

    async def ask(
        self, messages: list[dict[str, str]], ahead: Ahead | None = None
    ) -> tuple[list[Any], str]:
        """Ask, and answer; return the events, and the key that came."""

        async def events() -> list[Any]:
            return [event async for event in self.upstream.stream(BODY, messages, ahead)]

        asking = asyncio.ensure_future(events())
        call = await self.server.call()
        assert call.prompt == messages[0]["content"]
        call.answer("yes")
        return await asking, call.headers[
            "x-api-key" if "x-api-key" in call.headers else "authorization"
        ]


@pytest.fixture
async def ready(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Ready]:
    key_file = tmp_path / "key"
    key_file.write_text("sk-one\n")
    made = Ready(upstream, key_file)
    assert made.upstream.make_ahead(BODY, HELLO) is None  # it would have to load the SDK
    await made.ask(HELLO)
    yield made
    await made.upstream.close()


async def test_a_call_that_was_made_ahead_is_sent_once(ready: Ready) -> None:
    ahead = ready.ahead()
    for _ in range(2):  # the second time by a call like any other
        (begun, text, end), _key = await ready.ask(HELLO, ahead)
        assert (begun, text) == (Begun(), "yes")
        assert isinstance(end, Ended)
    assert ready.server.calls == 3


async def test_one_that_is_not_needed_is_never_sent(ready: Ready) -> None:
    ahead = ready.ahead()
    await ready.ask(OTHER)  # as long as a call takes: it had the time
    ahead.cancel()
    await ready.ask(OTHER)
    assert ready.server.calls == 3


async def test_another_question_is_not_mistaken_for_it(ready: Ready) -> None:
    ahead = ready.ahead()
    await ready.ask(OTHER, ahead)
    ahead.cancel()


async def test_the_key_is_the_present_one(ready: Ready) -> None:
    ahead = ready.ahead()
    ready.key_file.write_text("sk-number-two\n")
    _, key = await ready.ask(HELLO, ahead)
    assert "sk-number-two" in key
    ahead.cancel()


async def test_cancelling_it_after_it_was_sent_changes_nothing(ready: Ready) -> None:
    ahead = ready.ahead()
    asking = asyncio.ensure_future(anext(ready.upstream.stream(BODY, HELLO, ahead)))
    call = await ready.server.call()
    ahead.cancel()
    call.begin()
    assert await asking == Begun()


async def test_who_leaves_cancels_a_call_that_was_made_ahead(ready: Ready) -> None:
    asking = asyncio.ensure_future(anext(ready.upstream.stream(BODY, HELLO, ready.ahead())))
    call = await ready.server.call()
    asking.cancel()
    await call.gone.wait()


async def test_its_failure_is_that_of_the_call(ready: Ready) -> None:
    ahead = ready.ahead()
    asking = asyncio.ensure_future(anext(ready.upstream.stream(BODY, HELLO, ahead)))
    call = await ready.server.call()
    call.refuse(400, "invalid_request_error")
    with pytest.raises(Exception, match="invalid_request_error"):
        await asking


async def test_none_is_made_without_a_key(ready: Ready) -> None:
    ready.key_file.write_text("")
    assert ready.upstream.make_ahead(BODY, HELLO) is None


async def test_what_another_sidecar_has_stored_is_not_asked_again(
    generating: Callable[..., Awaitable[CacheServiceAsyncStub]],
    upstream: ScriptedUpstream,
    request: pytest.FixtureRequest,
    key_prefix: str,
) -> None:
    store = settings_of("valkey9", request, key_prefix)
    one, other = Talk(await generating(**store)), Talk(await generating(**store))
    for talk, prompt in ((one, "first"), (other, "second"), (one, "third")):
        await talk.start(prompt, prompt)
        (await upstream.call()).answer("yes")
        await talk.end(prompt)
    await other.start("again", "third")
    assert (await other.end("again")).source == pb.ANSWER_SOURCE_CACHE
    await other.start("last", "fourth")
    (await upstream.call()).answer("yes")
    await other.end("last")
    assert upstream.calls == 4
