"""EnhancedAnthropicClient through the sidecar's batcher, and when the sidecar cannot."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import anthropic
import pytest
from anthropic import AsyncAnthropic

from mge_cache import Timeouts
from mge_cache.anthropic import EnhancedAnthropicClient
from tests.anthropic.clients import MODEL
from tests.rpc.scripted_upstream import ScriptedUpstream, scripted_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache.anthropic import Generation
    from tests.e2e.sidecars import Launch, Sidecar

TIMEOUTS = Timeouts(get_s=5.0, set_s=5.0, retry_s=0.05)
HASTY = Timeouts(get_s=0.2, set_s=0.2, retry_s=0.05)
BY_ITSELF, BY_SIDECAR = "Bearer by-itself", "Bearer by-sidecar"


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as server:
        yield server


@pytest.fixture
async def sdk(scripted: ScriptedUpstream) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(api_key="by-itself", base_url=scripted.url, max_retries=0) as client:
        yield client


async def start(launch: Launch, scripted: ScriptedUpstream, key: str = "by-sidecar") -> Sidecar:
    """Start a sidecar that asks the scripted server; without a key it cannot."""
    return await launch(
        options=("--anthropic-base-url", scripted.url, "--batch-window", "0"),
        environment={"ANTHROPIC_API_KEY": key},
    )


async def test_the_sidecar_asks(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch
) -> None:
    sidecar = await start(launch, scripted)
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=TIMEOUTS
    ) as client:
        asking = asyncio.ensure_future(
            client.generate_with_caching("x", model=MODEL, system="Be brief.", temperature=0.5)
        )
        call = await scripted.call()
        assert call.headers["authorization"] == BY_SIDECAR
        assert (call.body["system"], call.body["temperature"]) == ("Be brief.", 0.5)
        assert call.body["max_tokens"] == 1024
        call.answer("yes")
        first = await asking
        second = await client.generate_with_caching(
            "x", model=MODEL, system="Be brief.", temperature=0.5
        )
    assert (first.text, first.cached, first.stop_reason) == ("yes", False, "end_turn")
    assert (second.text, second.cached, second.usage) == ("yes", True, first.usage)
    assert scripted.calls == 1


async def test_batching_without_caching(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch
) -> None:
    sidecar = await start(launch, scripted)
    async with EnhancedAnthropicClient(
        enable_v2_caching=False,
        enable_v2_batching=True,
        client=sdk,
        target=sidecar.target,
        timeouts=TIMEOUTS,
    ) as client:
        for text in ("1", "2"):
            asking = asyncio.ensure_future(client.generate_with_caching("x", model=MODEL))
            (await scripted.call()).answer(text)
            assert (await asking).text == text


async def test_switched_off_in_the_environment(
    sdk: AsyncAnthropic,
    scripted: ScriptedUpstream,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sidecar = await start(launch, scripted)
    monkeypatch.setenv("MGE_V2_LLM_CACHE_ENABLED", "false")
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=TIMEOUTS
    ) as client:
        await ask_by_itself(client, scripted)


async def test_a_sidecar_without_a_key(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch
) -> None:
    sidecar = await start(launch, scripted, key="")
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=TIMEOUTS
    ) as client:
        await ask_by_itself(client, scripted)
        assert client.failures == 1


async def test_what_anthropic_refuses_comes_in_the_sdks_own_error(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch
) -> None:
    sidecar = await start(launch, scripted)
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=TIMEOUTS
    ) as client:
        asking = asyncio.ensure_future(client.generate_with_caching("x", model=MODEL))
        for expected in (BY_SIDECAR, BY_ITSELF):
            call = await scripted.call()
            assert call.headers["authorization"] == expected
            call.refuse(400, "invalid_request_error")
        with pytest.raises(anthropic.BadRequestError):
            await asking


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_sidecar_that_goes_in_mid_call(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch, end: signal.Signals
) -> None:
    sidecar = await start(launch, scripted)
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=HASTY
    ) as client:
        asking = asyncio.ensure_future(client.generate_with_caching("x", model=MODEL))
        assert (await scripted.call()).headers["authorization"] == BY_SIDECAR
        sidecar.send(end)
        await ask_by_itself(client, scripted, asking)
        # From now on nobody waits for it.
        await ask_by_itself(client, scripted)
    sidecar.send(signal.SIGCONT) if end is signal.SIGSTOP else None


async def ask_by_itself(
    client: EnhancedAnthropicClient,
    scripted: ScriptedUpstream,
    asking: asyncio.Task[Generation] | None = None,
) -> None:
    """See the client ask without the sidecar."""
    asking = asking or asyncio.ensure_future(client.generate_with_caching("y", model=MODEL))
    call = await scripted.call()
    assert call.headers["authorization"] == BY_ITSELF
    call.answer_whole("yes")
    assert str(await asking) == "yes"
