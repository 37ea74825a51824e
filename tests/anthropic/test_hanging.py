"""A sidecar that hangs, under the drop-ins for Anthropic's SDK, with their usual time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from anthropic import AsyncAnthropic

from mge_cache.anthropic import EnhancedAnthropicClient
from tests.anthropic.clients import MODEL, Clients, call
from tests.hanging import bare, check_hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.anthropic.upstream import Upstream
    from tests.e2e.sidecars import Launch


def question(name: str) -> dict[str, Any]:
    content = f"scene=text {name}"
    return {
        "model": MODEL,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": content}],
    }


def by(client: Any, upstream: Upstream, method: str) -> Callable[[str], Awaitable[bool]]:
    """Ask through a client; a hit is what the API was not asked for."""

    async def ask(name: str) -> bool:
        before = upstream.calls
        await call(client, method, question(name))
        return upstream.calls == before

    return ask


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("method", ["via_create", "via_stream"])
async def test_middleware(
    clients: Clients, upstream: Upstream, launch: Launch, method: str, kind: str
) -> None:
    sidecar = await launch()
    middleware = clients.middleware(target=sidecar.target, timeouts=None)
    usual_s = await bare(by(clients.either(kind), upstream, method))
    await check_hang(
        sidecar, by(clients.either(kind, middleware), upstream, method), bare_s=usual_s
    )
    assert middleware.failures > 0


@pytest.mark.parametrize("batching", [False, True])
async def test_enhanced_client(upstream: Upstream, launch: Launch, *, batching: bool) -> None:
    environment = {"ANTHROPIC_API_KEY": "made-up"}
    options = ("--anthropic-base-url", upstream.base_url)
    sidecar = await launch(options=options, environment=environment)
    async with (
        AsyncAnthropic(api_key="made-up", base_url=upstream.base_url, max_retries=0) as sdk,
        EnhancedAnthropicClient(
            client=sdk, target=sidecar.target, enable_v2_batching=batching
        ) as client,
    ):

        async def ask(name: str) -> bool:
            prompt = f"scene=text {name}"
            return (await client.generate_with_caching(prompt, model=MODEL)).cached

        usual_s = await bare(by(sdk, upstream, "via_create"))
        await check_hang(sidecar, ask, bare_s=usual_s)
        assert client.failures > 0
