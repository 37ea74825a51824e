"""Answers that are not whole, or no answers, are passed on as they are and never stored."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest

from tests.anthropic.clients import ask, call
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache.anthropic import PromptCacheMiddleware
    from tests.anthropic.clients import Clients
    from tests.anthropic.upstream import Upstream

CUT_SHORT = {
    "refusal": "refusal",
    "max_tokens": "max_tokens",
    "pause_turn": "pause_turn",
    "window": "model_context_window_exceeded",
    "new_stop": "unknown-stop",
    "container": "container",
}
STATUSES = {
    "limited": anthropic.RateLimitError,
    "broken": anthropic.InternalServerError,
    "overloaded": anthropic.OverloadedError,
    "bad": anthropic.BadRequestError,
}
KINDS = pytest.mark.parametrize("kind", ["async", "sync"])


async def counted(middleware: PromptCacheMiddleware, **counts: int) -> None:
    """Wait until these are the counts: stores happen behind the calls."""
    expected = {name.replace("__", "/"): count for name, count in counts.items()}

    def agree() -> bool:
        assert middleware.counts == expected
        return True

    await eventually(agree)


@KINDS
@pytest.mark.parametrize("method", ["via_create", "via_create_stream"])
@pytest.mark.parametrize("scene", CUT_SHORT)
async def test_an_answer_cut_short(
    clients: Clients, upstream: Upstream, scene: str, method: str, kind: str
) -> None:
    middleware = clients.middleware()
    client = clients.either(kind, middleware)

    for _ in range(2):
        await call(client, method, ask(scene))

    assert upstream.calls == 2
    await eventually(lambda: middleware.counts[f"not_stored/{CUT_SHORT[scene]}"] == 2)
    assert middleware.counts["miss"] == 2


@KINDS
@pytest.mark.parametrize("method", ["via_create", "via_stream"])
@pytest.mark.parametrize("scene", STATUSES)
async def test_an_error_status(
    clients: Clients, upstream: Upstream, scene: str, method: str, kind: str
) -> None:
    middleware = clients.middleware()
    client = clients.either(kind, middleware)
    for _ in range(2):
        with pytest.raises(STATUSES[scene]) as raised:
            await call(client, method, ask(scene))
        assert raised.value.response.headers["x-mge-cache"] == "miss"
    assert upstream.calls == 2
    await eventually(lambda: middleware.counts["not_stored/failed"] == 2)


@KINDS
async def test_the_sdk_retries_a_miss_and_its_answer_is_stored(
    clients: Clients, upstream: Upstream, kind: str
) -> None:
    client = clients.either(kind, clients.middleware(), max_retries=2)

    miss = await call(client, "via_create", ask("overloaded_first"))
    hit = await call(client, "via_create", ask("overloaded_first"))

    assert hit == miss
    assert upstream.calls == 2  # one that failed, one that was answered


@KINDS
async def test_an_error_in_mid_stream(clients: Clients, upstream: Upstream, kind: str) -> None:
    middleware = clients.middleware()
    client = clients.either(kind, middleware)
    for _ in range(2):
        with pytest.raises(anthropic.APIStatusError):
            await call(client, "via_stream", ask("error"))
    assert upstream.calls == 2
    await counted(middleware, miss=2, not_stored__incomplete=2)


@KINDS
@pytest.mark.parametrize("provider", ["anthropic", "bedrock"])
async def test_a_connection_that_is_cut(
    clients: Clients, upstream: Upstream, provider: str, kind: str
) -> None:
    middleware = clients.middleware()
    client = clients.either(kind, middleware, provider=provider)
    for _ in range(2):
        with pytest.raises(httpx2.RemoteProtocolError):
            await call(client, "via_create_stream", ask("cut"))
    assert upstream.calls == 2
    await counted(middleware, miss=2, not_stored__incomplete=2)


async def test_a_stream_that_its_reader_leaves(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware()
    client = clients.asynchronous(middleware)

    async with client.messages.stream(**ask("gated")) as stream:
        async for _ in stream:
            break
    upstream.open_gate()
    after = await client.messages.create(**ask("gated"))

    assert after.stop_reason == "end_turn"
    assert upstream.calls == 2
    await counted(middleware, miss=2, not_stored__incomplete=1)


async def test_a_stream_that_a_thread_leaves(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware()
    client = clients.synchronous(middleware)

    def leave() -> None:
        with client.messages.stream(**ask("gated")) as stream:
            next(iter(stream))

    await asyncio.to_thread(leave)
    upstream.open_gate()
    await call(client, "via_create", ask("gated"))

    assert upstream.calls == 2
    await counted(middleware, miss=2, not_stored__incomplete=1)


async def test_a_stream_left_after_its_last_event_is_stored(
    clients: Clients, upstream: Upstream
) -> None:
    middleware = clients.middleware()
    client = clients.asynchronous(middleware)

    stream = await client.messages.create(**ask("text"), stream=True)
    async for event in stream:
        if event.type == "message_stop":
            break
    await stream.close()
    await client.messages.create(**ask("text"))

    assert upstream.calls == 1
    await counted(middleware, miss=1, hit=1)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # that of the SDK, for the same negligence
async def test_a_stream_that_is_lost_unread_lets_go_of_its_lease(
    clients: Clients, upstream: Upstream
) -> None:
    client = clients.asynchronous(clients.middleware(wait_s=20.0))
    lost: Any = await client.messages.create(**ask("gated"), stream=True)
    asking = asyncio.create_task(client.messages.create(**ask("gated")))
    upstream.open_gate()

    del lost
    gc.collect()

    assert (await asyncio.wait_for(asking, 15.0)).stop_reason == "end_turn"
    assert upstream.calls == 2


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_stream_that_a_thread_loses_lets_go_of_its_lease(
    clients: Clients, upstream: Upstream
) -> None:
    client = clients.synchronous(clients.middleware(wait_s=20.0))
    lost: Any = client.messages.create(**ask("gated"), stream=True)
    asking = asyncio.create_task(call(client, "via_create", ask("gated")))
    upstream.open_gate()

    del lost
    gc.collect()

    await asyncio.wait_for(asking, 15.0)
    assert upstream.calls == 2


async def test_an_answer_that_is_too_large(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware(answer_max_bytes=200)
    client = clients.asynchronous(middleware)
    for method in ("via_create", "via_create_stream"):
        await call(client, method, ask("text"))
    assert upstream.calls == 2
    assert middleware.counts["miss"] == 2
    await eventually(lambda: middleware.counts["not_stored/too-large"] == 2)
