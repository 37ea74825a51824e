"""EnhancedAnthropicClient when the sidecar that asks for it goes, to the moment."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from anthropic import AsyncAnthropic

from mge_cache import Timeouts
from mge_cache.anthropic import EnhancedAnthropicClient
from tests.anthropic.clients import MODEL
from tests.rpc.scripted_upstream import ScriptedUpstream, scripted_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache.anthropic import Generation
    from tests.e2e.sidecars import Launch

HASTY = Timeouts(get_s=1.0, set_s=1.0, retry_s=0.05)
BY_ITSELF, BY_SIDECAR = "Bearer by-itself", "Bearer by-sidecar"


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as server:
        yield server


@pytest.fixture
async def sdk(scripted: ScriptedUpstream) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(api_key="by-itself", base_url=scripted.url, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_sidecar_that_goes_in_mid_call(
    sdk: AsyncAnthropic, scripted: ScriptedUpstream, launch: Launch, end: signal.Signals
) -> None:
    sidecar = await launch(
        options=("--anthropic-base-url", scripted.url, "--batch-window", "0"),
        environment={"ANTHROPIC_API_KEY": "by-sidecar"},
    )
    async with EnhancedAnthropicClient(
        enable_v2_batching=True, client=sdk, target=sidecar.target, timeouts=HASTY
    ) as client:
        asking = asyncio.ensure_future(client.generate_with_caching("x", model=MODEL))
        assert (await scripted.call()).headers["authorization"] == BY_SIDECAR
        sidecar.send(end)
        await ask_by_itself(client, scripted, asking)
        # From now on nobody waits for it.
        await ask_by_itself(client, scripted)
    if end is signal.SIGSTOP:
        sidecar.send(signal.SIGCONT)


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
