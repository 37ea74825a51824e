"""Ways to ask the Messages API for an answer that streams: the SDK alone, and the sidecar."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from mge_cache import AsyncClient, PromptRequest, Timeouts
from tests.bench import servers

if TYPE_CHECKING:
    from pathlib import Path

    from mge_cache import Strategy

MODEL = "claude-haiku-4-5"
"""It caches prefixes from 4,096 tokens on: the system prompt below is too short for that."""
SYSTEM = "\n".join(
    f"Rule {number}: say what the task is for, what it needs, and how one sees that it is done."
    for number in range(1, 33)
)
"""About 800 tokens: enough for merging to pay."""
MAX_TOKENS = 300
_PATIENT = Timeouts(generate_margin_s=60.0)

Ask = Callable[[str], AsyncIterator[str]]
"""Yields the parts of the answer to a prompt as they come."""


@dataclass(frozen=True, slots=True)
class Sides:
    """A client of each side, with connections of its own."""

    sdk: AsyncAnthropic
    client: AsyncClient


@contextlib.asynccontextmanager
async def both_sides(folder: Path, name: str, base_url: str, *options: str) -> AsyncIterator[Sides]:
    """Run a sidecar before the Messages API at ``base_url``; yields clients of both."""
    environment = {"ANTHROPIC_API_KEY": "made-up", "ANTHROPIC_BASE_URL": base_url}
    async with (
        servers.sidecar(folder, name, *options, environment=environment) as sidecar,
        AsyncClient(sidecar.target, timeouts=_PATIENT) as client,
        # trust_env: no proxy and no other setting of this machine comes between.
        AsyncAnthropic(
            api_key="made-up",
            base_url=base_url,
            http_client=DefaultAsyncHttpxClient(trust_env=False),
        ) as sdk,
    ):
        yield Sides(sdk, client)


def direct(sdk: AsyncAnthropic) -> Ask:
    """Ask with the SDK alone, by its cheapest way to stream."""

    async def ask(prompt: str) -> AsyncIterator[str]:
        events = await sdk.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            system=SYSTEM,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
        )
        async with events:
            async for event in events:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    yield event.delta.text

    return ask


def through(client: AsyncClient, namespace: str, strategy: Strategy) -> Ask:
    """Ask the sidecar. What was asked in another namespace is new in this one."""

    async def ask(prompt: str) -> AsyncIterator[str]:
        request = PromptRequest(
            model=MODEL,
            prompt=prompt,
            parameters={"max_tokens": MAX_TOKENS, "system": SYSTEM},
            namespace=namespace,
        )
        async for delta in client.generate(request, strategy=strategy):
            if delta.text:
                yield delta.text

    return ask
