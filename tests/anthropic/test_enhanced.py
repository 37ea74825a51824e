"""EnhancedAnthropicClient: a prompt's text, from the cache or the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from mge_cache import AsyncClient
from mge_cache.anthropic import EnhancedAnthropicClient
from tests.anthropic.clients import MODEL, PATIENT
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.anthropic.upstream import Upstream


@pytest.fixture
async def sdk(upstream: Upstream) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(
        api_key="made-up", base_url=upstream.base_url, max_retries=0
    ) as client:
        yield client


async def test_a_prompt_is_paid_for_once(
    sdk: AsyncAnthropic, upstream: Upstream, target: str
) -> None:
    options: dict[str, Any] = {"client": sdk, "target": target, "timeouts": PATIENT}
    async with EnhancedAnthropicClient(**options) as client:
        first = await client.generate_with_caching("scene=two", model=MODEL)
        second = await client.generate_with_caching("scene=two", model=MODEL)

        assert (first.cached, second.cached) == (False, True)
        assert str(second) == str(first)
        assert first.text.endswith("lines.And more.")
        assert "And more" not in repr(first)
        assert (second.usage, second.stop_reason) == (first.usage, "end_turn")
        assert first.usage.output_tokens > 0
        assert (client.counts, client.failures) == ({"miss": 1, "hit": 1}, 0)
    async with EnhancedAnthropicClient(**options) as client:
        assert (await client.generate_with_caching("scene=two", model=MODEL)).cached
    assert upstream.calls == 1


async def test_each_argument_matters(sdk: AsyncAnthropic, upstream: Upstream, target: str) -> None:
    others: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"max_tokens": 2000},
        {"system": "Be brief."},
    ]
    async with EnhancedAnthropicClient(client=sdk, target=target, timeouts=PATIENT) as client:
        for number, other in enumerate(others, start=1):
            for _ in range(2):
                await client.generate_with_caching("scene=text", model=MODEL, **other)
            assert upstream.calls == number
            sent = upstream.last_body
            assert sent["max_tokens"] == other.get("max_tokens", 1024)
            assert sent.get("temperature") == other.get("temperature")
            assert sent.get("system") == other.get("system")
        with pytest.raises(anthropic.NotFoundError):
            await client.generate_with_caching("scene=text", model="another")
        await client.generate_with_caching("scene=text, please", model=MODEL)
    assert upstream.calls == len(others) + 2


async def test_a_masterplan_ends(sdk: AsyncAnthropic, upstream: Upstream, target: str) -> None:
    async with (
        EnhancedAnthropicClient(client=sdk, target=target, timeouts=PATIENT) as client,
        AsyncClient(target) as cache,
    ):
        for expected in (1, 1):
            await client.generate_with_caching("scene=text", model=MODEL, masterplan_id="plan")
            assert upstream.calls == expected
        await cache.invalidate(masterplan="plan")
        await client.generate_with_caching("scene=text", model=MODEL, masterplan_id="plan")
        assert upstream.calls == 2


async def test_without_the_cache(sdk: AsyncAnthropic, upstream: Upstream, target: str) -> None:
    options: dict[str, Any] = {"client": sdk, "target": target, "enable_v2_caching": False}
    async with EnhancedAnthropicClient(**options) as client:
        for _ in range(2):
            answer = await client.generate_with_caching(
                "scene=text", model=MODEL, masterplan_id="plan"
            )
            assert not answer.cached
    assert upstream.calls == 2
    assert "x-mge-masterplan" not in upstream.last_headers


async def test_without_a_sidecar(sdk: AsyncAnthropic, upstream: Upstream, tmp_path: Path) -> None:
    async with EnhancedAnthropicClient(client=sdk, target=f"unix:{tmp_path}/nobody") as client:
        for _ in range(2):
            answer = await client.generate_with_caching("scene=text", model=MODEL)
            assert not answer.cached
        await eventually(lambda: client.failures >= 2)
    assert upstream.calls == 2


async def test_a_client_of_its_own(
    upstream: Upstream, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "made-up")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", upstream.base_url)
    async with EnhancedAnthropicClient(target=target, timeouts=PATIENT) as client:
        await client.generate_with_caching("scene=text", model=MODEL)
    assert upstream.calls == 1
