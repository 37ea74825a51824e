"""A hit is what the miss that filled it was: each method, scene, provider, sync and async."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from anthropic.lib.middleware import BetaRefusalFallbackMiddleware

from tests.anthropic.clients import METHODS, PROVIDERS, ask, call

if TYPE_CHECKING:
    from tests.anthropic.clients import Clients
    from tests.anthropic.upstream import Upstream

SCENES = ("text", "two", "empty", "tool_use", "thinking", "citations", "stop_sequence", "new_block")
TOOLS = [{"name": "look_up", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("method", METHODS)
async def test_a_hit_is_like_the_miss_that_filled_it(
    clients: Clients, upstream: Upstream, method: str, provider: str, kind: str
) -> None:
    middleware = clients.middleware()
    bare = clients.either(kind, provider=provider)
    client = clients.either(kind, middleware, provider=provider)
    for scene in SCENES:
        arguments = ask(scene, tools=TOOLS)
        before = upstream.calls
        miss = await call(client, method, arguments)
        hit = await call(client, method, arguments)
        assert hit == miss, scene
        assert upstream.calls == before + 1
        alone = await call(bare, method, arguments)
        assert _anonymous(miss) == _anonymous(alone), scene
    assert middleware.counts == {"miss": len(SCENES), "hit": len(SCENES)}
    assert middleware.failures == 0


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("first", ["via_create", "via_stream"])
async def test_streamed_and_whole_requests_share_an_entry(
    clients: Clients, upstream: Upstream, first: str, provider: str, kind: str
) -> None:
    client = clients.either(kind, clients.middleware(), provider=provider)
    for scene in SCENES:
        before = upstream.calls
        filled = await call(client, first, ask(scene))
        events, final, _ = await call(client, "via_stream", ask(scene))
        whole = await call(client, "via_create", ask(scene))
        assert upstream.calls == before + 1
        if first == "via_create":
            assert whole == filled
        else:
            assert (events, final) == filled[:2]
        assert _of(whole) == _of(final), scene
        raw = await call(client, "via_create_stream", ask(scene))
        assert [each[2]["type"] for each in (raw[0], raw[-2], raw[-1])] == [
            "message_start",
            "message_delta",
            "message_stop",
        ]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_comes_compressed(
    clients: Clients, zipping_upstream: Upstream, kind: str
) -> None:
    options = {"base_url": zipping_upstream.base_url}
    client = clients.either(kind, clients.middleware(), **options)
    for method, scene in (("via_raw", "text"), ("via_stream", "two"), ("via_create", "two")):
        miss = await call(client, method, ask(scene))
        assert await call(client, method, ask(scene)) == miss
    assert zipping_upstream.calls == 2


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_parse(clients: Clients, upstream: Upstream, kind: str) -> None:
    client = clients.either(kind, clients.middleware())

    miss = await call(client, "parsed", ask("json"))
    hit = await call(client, "parsed", ask("json"))

    assert hit == miss
    assert hit[0].city == "Paris"
    assert upstream.calls == 1


async def test_both_kinds_of_client_share_an_entry(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware()
    first = await call(clients.asynchronous(middleware), "via_stream", ask("thinking"))
    second = await call(clients.synchronous(middleware), "via_stream", ask("thinking"))
    assert second == first
    assert upstream.calls == 1


async def test_a_hit_says_so(clients: Clients) -> None:
    client = clients.asynchronous(clients.middleware())
    assert await call(client, "header", ask("text")) == "miss"
    said = await call(client, "header", ask("text"))
    words = said.split("; ")
    assert words[0] == "hit"
    assert words[1] in {"layer=l1", "layer=flight"}
    assert float(words[2].removeprefix("age=")) >= 0
    assert float(words[3].removeprefix("saved-usd=")) > 0


async def test_a_request_of_a_hit_has_no_credentials(clients: Clients, upstream: Upstream) -> None:
    client = clients.asynchronous(clients.middleware(), default_headers={"authorization": "top"})
    await client.messages.create(**ask("text"))

    response = await client.messages.with_raw_response.create(**ask("text"))

    assert response.headers["x-mge-cache"].startswith("hit")
    for name in ("anthropic-version", "user-agent"):
        assert response.http_request.headers[name] == upstream.last_headers[name]
    assert not {"x-api-key", "authorization"} & set(response.http_request.headers)
    assert response.elapsed.total_seconds() >= 0


def _anonymous(value: Any) -> str:
    """Blot out what differs between two calls of the API."""
    return re.sub(r"local_\d{8}", "local_N", repr(value))


def _of(shown: tuple[str, str, dict[str, Any]]) -> str:
    """The message, whatever class it is of; a streamed one sets more fields to None."""
    return json.dumps({k: v for k, v in shown[2].items() if v is not None}, sort_keys=True)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_beside_a_middleware_of_the_sdks_own(
    clients: Clients, upstream: Upstream, kind: str
) -> None:
    """What falls back asks twice, of two models: two entries, and no refusal among them."""
    fallback = BetaRefusalFallbackMiddleware([{"model": "claude-sonnet-4-5"}])
    middleware = clients.middleware()
    client = clients.either(kind, fallback, middleware)
    for method in ("via_beta", "via_beta_stream"):
        miss = await call(client, method, ask("text"))
        assert await call(client, method, ask("text")) == miss
    before = upstream.calls
    for _ in range(2):
        await call(client, "via_beta", ask("refusal"))
    assert upstream.calls == before + 4
