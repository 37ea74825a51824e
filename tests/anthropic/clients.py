"""The SDK's clients, all pointed at the local API, and every way to ask them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from anthropic import (
    Anthropic,
    AnthropicBedrock,
    AnthropicVertex,
    AsyncAnthropic,
    AsyncAnthropicBedrock,
    AsyncAnthropicVertex,
)

from mge_cache import Timeouts
from mge_cache.anthropic import PromptCacheMiddleware
from tests.anthropic import asynchronous, synchronous

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

MODEL = "claude-sonnet-5-5"
PROVIDERS = ("anthropic", "bedrock", "vertex")
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)
"""A busy machine is not what these tests are about."""

AsyncSDK = AsyncAnthropic | AsyncAnthropicBedrock | AsyncAnthropicVertex
SyncSDK = Anthropic | AnthropicBedrock | AnthropicVertex


def ask(scene: str, **more: Any) -> dict[str, Any]:
    """Return the arguments of a call."""
    message = {"role": "user", "content": f"scene={scene}"}
    return {"model": MODEL, "max_tokens": 500, "messages": [message], **more}


class Clients:
    """Makes clients; all are closed with the test."""

    def __init__(self, stack: AsyncExitStack, *, base_url: str, target: str) -> None:
        self._stack = stack
        self._base_url = base_url
        self._target = target

    def middleware(self, **options: Any) -> PromptCacheMiddleware:
        """Make a middleware."""
        usual = {"target": self._target, "timeouts": PATIENT, **options}
        middleware = PromptCacheMiddleware(**usual)
        self._stack.push_async_callback(middleware.aclose)
        self._stack.push_async_callback(asyncio.to_thread, middleware.close)
        return middleware

    def asynchronous(
        self, *middleware: Any, provider: str = "anthropic", **options: Any
    ) -> AsyncSDK:
        """Make an asynchronous client."""
        usual: dict[str, Any] = {
            "base_url": self._base_url,
            "middleware": middleware,
            "max_retries": 0,
            **_CREDENTIALS[provider],
            **options,
        }
        made: AsyncSDK = _ASYNCHRONOUS[provider](**usual)
        self._stack.push_async_callback(made.close)
        return made

    def synchronous(self, *middleware: Any, provider: str = "anthropic", **options: Any) -> SyncSDK:
        """Make a synchronous client."""
        usual: dict[str, Any] = {
            "base_url": self._base_url,
            "middleware": middleware,
            "max_retries": 0,
            **_CREDENTIALS[provider],
            **options,
        }
        made: SyncSDK = _SYNCHRONOUS[provider](**usual)
        self._stack.callback(made.close)
        return made

    def either(self, kind: str, *middleware: Any, **options: Any) -> AsyncSDK | SyncSDK:
        """Make a client of the kind "async" or "sync"."""
        make = self.asynchronous if kind == "async" else self.synchronous
        return make(*middleware, **options)


async def call(client: AsyncSDK | SyncSDK, method: str, arguments: dict[str, Any]) -> Any:
    """Ask a client by a method of METHODS; returns what can be compared."""
    if isinstance(client, (Anthropic, AnthropicBedrock, AnthropicVertex)):
        return await asyncio.to_thread(getattr(synchronous, method), client, arguments)
    return await getattr(asynchronous, method)(client, arguments)


METHODS = tuple(name for name in vars(asynchronous) if name.startswith("via_"))

_ASYNCHRONOUS: dict[str, Any] = {
    "anthropic": AsyncAnthropic,
    "bedrock": AsyncAnthropicBedrock,
    "vertex": AsyncAnthropicVertex,
}
_SYNCHRONOUS: dict[str, Any] = {
    "anthropic": Anthropic,
    "bedrock": AnthropicBedrock,
    "vertex": AnthropicVertex,
}
_CREDENTIALS: dict[str, dict[str, Any]] = {
    "anthropic": {"api_key": "made-up"},
    "bedrock": {"aws_access_key": "a", "aws_secret_key": "b", "aws_region": "us-east-1"},
    "vertex": {"region": "europe-west1", "project_id": "p", "access_token": "t"},
}
