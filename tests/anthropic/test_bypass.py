"""What passes by the cache, and that it passes as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import AsyncClient, InvalidRequestError
from mge_cache.anthropic import (
    PromptCacheMiddleware,
    in_masterplan,
    masterplan_header,
    no_store,
    refresh,
)
from tests.anthropic.clients import ask, call
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.anthropic.clients import Clients
    from tests.anthropic.upstream import Upstream

KINDS = pytest.mark.parametrize("kind", ["async", "sync"])
PNG = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}


def with_block(block: dict[str, Any]) -> dict[str, Any]:
    content = [block, {"type": "text", "text": "scene=text"}]
    return {**ask("text"), "messages": [{"role": "user", "content": content}]}


PASSING: dict[str, tuple[str, dict[str, Any]]] = {
    "by header": ("no-store", ask("text", extra_headers=no_store())),
    "an unknown word": ("no-store", ask("text", extra_headers={"X-MGE-Cache": "nostore"})),
    "web search": (
        "server-tool",
        ask("text", tools=[{"type": "web_search_20260318"}]),
    ),
    "web fetch": ("server-tool", ask("text", tools=[{"type": "web_fetch_20250910", "name": "w"}])),
    "code": ("server-tool", ask("text", tools=[{"type": "code_execution_20260521", "name": "c"}])),
    "a tool of tomorrow": ("server-tool", ask("text", tools=[{"type": "robot_20300101"}])),
    "an MCP toolset": ("mcp", ask("text", tools=[{"type": "mcp_toolset", "mcp_server_name": "m"}])),
    "MCP": ("mcp", ask("text", extra_body={"mcp_servers": [{"type": "url", "url": "https://m"}]})),
    "a container": ("container", ask("text", container="c_1")),
    "a thread": ("thread", ask("text", extra_body={"thread": {"id": "t"}})),
    "a credit": ("credit-token", ask("text", extra_body={"fallback_credit_token": "x"})),
    "an upload": ("container", with_block({"type": "container_upload", "file_id": "f"})),
    "a file": (
        "file",
        with_block({"type": "document", "source": {"type": "file", "file_id": "f"}}),
    ),
    "a page": (
        "url",
        with_block({"type": "image", "source": {"type": "url", "url": "https://e.test/a.png"}}),
    ),
    "a page in a result": (
        "url",
        with_block(
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "image", "source": {"type": "url", "url": "https://e.test"}}],
            }
        ),
    ),
    "heat": ("temperature", ask("text", extra_body={"temperature": 0.7})),
    "heat by default": ("temperature", ask("text")),
}
CACHED: dict[str, dict[str, Any]] = {
    "a tool of the application": ask("text", tools=[{"name": "t", "input_schema": {}}]),
    "a tool that it runs": ask("text", tools=[{"type": "bash_20250124", "name": "bash"}]),
    "a search for tools": ask("text", tools=[{"type": "tool_search_tool_bm25", "name": "s"}]),
    "an image": with_block({"type": "image", "source": PNG}),
    "no temperature": ask("text", extra_body={"temperature": 0}),
}


@KINDS
@pytest.mark.parametrize("method", ["header", "via_create_stream"])
@pytest.mark.parametrize("name", PASSING)
async def test_passing_by(
    clients: Clients, upstream: Upstream, name: str, method: str, kind: str
) -> None:
    reason, arguments = PASSING[name]
    options = {"max_temperature": 0.5} if reason == "temperature" else {}
    middleware = clients.middleware(**options)
    client = clients.either(kind, middleware)

    said = [await call(client, method, arguments) for _ in range(2)]

    assert upstream.calls == 2
    if method == "header":
        assert said == [f"bypass; reason={reason}"] * 2
    assert middleware.counts == {f"bypass/{reason}": 2}
    assert not [header for header in upstream.last_headers if header.startswith("x-mge")]


@pytest.mark.parametrize("name", CACHED)
async def test_what_looks_alike_and_is_cached(
    clients: Clients, upstream: Upstream, name: str
) -> None:
    client = clients.asynchronous(clients.middleware(max_temperature=1.0))
    for _ in range(2):
        await client.messages.create(**CACHED[name])
    assert upstream.calls == 1


async def test_other_endpoints_are_left_alone(clients: Clients, upstream: Upstream) -> None:
    middleware = clients.middleware()
    client = clients.asynchronous(middleware)
    for number in (1, 2):
        response = await client.get("/served", cast_to=object, options={"headers": no_store()})
        assert response["calls"] == 0  # type: ignore[index]
        assert middleware.counts == {"bypass/endpoint": number}
    assert upstream.calls == 0


@KINDS
async def test_a_refresh_asks_anew_and_replaces_the_answer(
    clients: Clients, upstream: Upstream, kind: str
) -> None:
    client = clients.either(kind, clients.middleware())
    first = await call(client, "via_create", ask("text"))
    second = await call(client, "via_create", ask("text", extra_headers=refresh()))
    assert second != first

    async def replaced() -> bool:
        return bool(await call(client, "via_create", ask("text")) == second)

    await eventually(replaced)
    assert upstream.calls == 2
    assert "x-mge-cache" not in upstream.last_headers


@KINDS
async def test_a_masterplan_of_one_call(
    clients: Clients, upstream: Upstream, target: str, kind: str
) -> None:
    client = clients.either(kind, clients.middleware(masterplan="usual"))
    await call(client, "via_create", ask("text", extra_headers=masterplan_header("Plan Ä/1")))
    assert "x-mge-masterplan" not in upstream.last_headers
    with in_masterplan("around"):
        await call(client, "via_create", ask("two"))
    await call(client, "via_create", ask("thinking"))
    assert upstream.calls == 3

    scenes = {"Plan Ä/1": "text", "around": "two", "usual": "thinking"}
    async with AsyncClient(target) as cache:
        for number, (plan, scene) in enumerate(scenes.items(), start=4):
            for each in scenes.values():
                await call(client, "via_create", ask(each))
            assert upstream.calls == number - 1
            await cache.invalidate(masterplan=plan)
            await call(client, "via_create", ask(scene))
            assert upstream.calls == number


async def test_directions_among_a_clients_default_headers(
    clients: Clients, upstream: Upstream
) -> None:
    headers = {"x-mge-cache": "no-store", "x-mge-masterplan": "secret"}
    client = clients.asynchronous(clients.middleware(), default_headers=headers)
    said = [await call(client, "header", ask("text")) for _ in range(2)]
    assert said == ["bypass; reason=no-store"] * 2
    assert not {*headers} & upstream.last_headers.keys()


@KINDS
@pytest.mark.parametrize("word", ["false", "OFF", "0", "no"])
async def test_switched_off_it_is_as_if_it_were_not_there(
    clients: Clients, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, word: str, kind: str
) -> None:
    client = clients.either(kind, clients.middleware())
    arguments = ask("text", extra_headers=masterplan_header("plan"))
    await call(client, "via_create", arguments)

    monkeypatch.setenv("MGE_V2_LLM_CACHE_ENABLED", word)
    assert await call(client, "header", arguments) == ""
    assert upstream.calls == 2
    assert "x-mge-masterplan" not in upstream.last_headers

    monkeypatch.setenv("MGE_V2_LLM_CACHE_ENABLED", "true")
    assert (await call(client, "header", arguments)).startswith("hit")


async def test_namespaces_share_nothing(clients: Clients, upstream: Upstream) -> None:
    for namespace in ("one", "two", "one"):
        client = clients.asynchronous(clients.middleware(namespace=namespace))
        await client.messages.create(**ask("text"))
    assert upstream.calls == 2


async def test_a_model_that_is_no_text_is_the_apis_business(clients: Clients) -> None:
    client = clients.asynchronous(clients.middleware())
    said = await call(client, "header", ask("text", extra_body={"temperature": True}))
    assert said == "bypass; reason=body"


def test_mistakes_show_at_once() -> None:
    mistakes: list[dict[str, Any]] = [
        {"ttl_s": -1.0},
        {"tags": "t"},
        {"vary": "t"},
        {"target": "t"},
    ]
    for options in mistakes:
        with pytest.raises(InvalidRequestError):
            PromptCacheMiddleware(**options)
