"""EnhancedAnthropicClient through the sidecar's batcher, and what it does where that cannot be."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from mge_cache import AsyncClient, Timeouts
from mge_cache.anthropic import EnhancedAnthropicClient
from mge_cache_server import app
from mge_cache_server.config import Settings
from tests.anthropic.clients import MODEL, PATIENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.anthropic.upstream import Upstream
    from tests.e2e.sidecars import Launch

    Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def sdk(upstream: Upstream) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(
        api_key="of the application", base_url=upstream.base_url, max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def serve(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a sidecar that may ask the API; returns its target."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> str:
            usual: dict[str, Any] = {
                "redis_url": "memory://",
                "unix_socket": f"{tmp_path}/s",
                "listen": "",
                "http_listen": "",
                "drain_s": 1.0,
                "anthropic_api_key": "of the sidecar",
                "anthropic_base_url": upstream.base_url,
            }
            sidecar = app.build(replace(Settings(), **{**usual, **settings}))
            await sidecar.start()
            stack.push_async_callback(sidecar.stop)
            return sidecar.targets[0]

        yield start


def enhanced(sdk: AsyncAnthropic, target: str, **options: Any) -> EnhancedAnthropicClient:
    usual = {"client": sdk, "target": target, "timeouts": PATIENT, "enable_v2_batching": True}
    return EnhancedAnthropicClient(**{**usual, **options})


def key_seen(upstream: Upstream) -> str:
    headers = upstream.last_headers
    return headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")


async def test_the_sidecar_asks(sdk: AsyncAnthropic, upstream: Upstream, serve: Serve) -> None:
    target = await serve()
    prompts = [f"scene=two, number {number % 3}" for number in range(6)]
    async with enhanced(sdk, target) as client, AsyncClient(target) as cache:

        async def ask(prompt: str) -> Any:
            return await client.generate_with_caching(
                prompt, model=MODEL, system="Be brief.", max_tokens=300, masterplan_id="plan"
            )

        answers = await asyncio.gather(*map(ask, prompts))
        assert upstream.calls == 3  # equal ones share
        assert key_seen(upstream) == "of the sidecar"
        for prompt, answer in zip(prompts, answers, strict=True):
            assert prompt in answer.text
        assert sum(not answer.cached for answer in answers) == 3
        assert upstream.last_body["max_tokens"] == 300

        again = await ask(prompts[0])
        assert (again.cached, again.text) == (True, answers[0].text)
        assert (again.model, again.stop_reason) == (MODEL, "end_turn")
        assert again.usage.output_tokens > 0
        await cache.invalidate(masterplan="plan")
        assert not (await ask(prompts[0])).cached
        assert client.failures == 0


async def test_without_the_cache(sdk: AsyncAnthropic, upstream: Upstream, serve: Serve) -> None:
    async with enhanced(sdk, await serve(), enable_v2_caching=False) as client:
        for _ in range(2):
            assert not (await client.generate_with_caching("scene=text", model=MODEL)).cached
    assert upstream.calls == 2
    assert key_seen(upstream) == "of the sidecar"


async def test_a_sidecar_without_a_key(
    sdk: AsyncAnthropic, upstream: Upstream, serve: Serve
) -> None:
    async with enhanced(sdk, await serve(anthropic_api_key="")) as client:
        for cached in (False, True):  # from here, and by the middleware's cache
            answer = await client.generate_with_caching("scene=text", model=MODEL)
            assert answer.cached is cached
        assert client.failures == 2
    assert upstream.calls == 1
    assert key_seen(upstream) == "of the application"


async def test_no_sidecar(sdk: AsyncAnthropic, upstream: Upstream, tmp_path: Path) -> None:
    async with enhanced(sdk, f"unix:{tmp_path}/nobody") as client:
        for calls in (1, 2):
            await client.generate_with_caching("scene=text", model=MODEL, masterplan_id="m")
            assert client.failures == calls, "the cache is not asked when the batcher is away"
    assert upstream.calls == 2


async def test_a_sidecar_that_hangs(
    sdk: AsyncAnthropic, upstream: Upstream, launch: Launch
) -> None:
    sidecar = await launch()
    timeouts = Timeouts(get_s=0.1, set_s=0.1, slice_margin_s=0.1)
    async with enhanced(sdk, sidecar.target, timeouts=timeouts) as client:
        sidecar.send(signal.SIGSTOP)
        answer = await client.generate_with_caching("scene=text", model=MODEL)
        assert answer.stop_reason == "end_turn"
        sidecar.send(signal.SIGCONT)
    assert upstream.calls == 1


async def test_switched_off(
    sdk: AsyncAnthropic, upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with enhanced(sdk, await serve()) as client:
        monkeypatch.setenv("MGE_V2_LLM_CACHE_ENABLED", "false")
        for _ in range(2):
            assert not (await client.generate_with_caching("scene=text", model=MODEL)).cached
    assert upstream.calls == 2
    assert key_seen(upstream) == "of the application"


async def test_errors_are_the_sdks(sdk: AsyncAnthropic, serve: Serve) -> None:
    async with enhanced(sdk, await serve()) as client:
        for scene, error in (("bad", anthropic.BadRequestError), ("nonsense", anthropic.APIError)):
            with pytest.raises(error):
                await client.generate_with_caching(f"scene={scene}", model=MODEL)
