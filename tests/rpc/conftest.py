"""A sidecar in this process, behind a real gRPC server, on each kind of store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub
from mge_cache_server import app
from mge_cache_server.config import Settings
from tests.rpc.scripted_upstream import scripted_upstream
from tests.servers.fixtures import key_prefix, servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream
    from tests.servers.fixtures import Servers

__all__ = ["key_prefix", "servers"]


class Serve:
    """Starts sidecars in this process; all end with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.target = ""
        """Where the latest one listens."""
        self._stack = stack
        self._latest: app.App | None = None
        self._stopped: list[app.App] = []

    async def __call__(self, **settings: Any) -> CacheServiceAsyncStub:
        """Start one and return a stub of it: in memory, unless fields of Settings say otherwise."""
        usual: dict[str, Any] = {
            "redis_url": "memory://",
            "listen": "127.0.0.1:0",
            "http_listen": "",
            "drain_s": 1.0,
        }
        sidecar = app.build(Settings(**{**usual, **settings}))
        await sidecar.start()
        self._latest = sidecar
        self._stack.push_async_callback(self._stop, sidecar)
        [self.target] = sidecar.targets
        unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        channel = grpc.aio.insecure_channel(self.target, options=unlimited)
        self._stack.push_async_callback(channel.close, None)
        return CacheServiceStub(channel)

    def stop(self) -> asyncio.Future[None]:
        """Stop the latest one."""
        assert self._latest is not None
        return asyncio.ensure_future(self._stop(self._latest))

    async def _stop(self, sidecar: app.App) -> None:
        if sidecar not in self._stopped:
            self._stopped.append(sidecar)
            await sidecar.stop()


@pytest.fixture(params=["memory", "valkey9"])
def store_settings(request: pytest.FixtureRequest, key_prefix: str) -> dict[str, Any]:
    """Settings of an empty store."""
    return settings_of(request.param, request, key_prefix)


def settings_of(kind: str, request: pytest.FixtureRequest, key_prefix: str) -> dict[str, Any]:
    """Make the settings of an empty store: "memory", or a kind of server, or "KIND vector-sets"."""
    if kind == "memory":
        return {"redis_url": "memory://"}
    server, _, index = kind.partition(" ")
    servers: Servers = request.getfixturevalue("servers")
    # A deadline that a busy machine keeps: faults are tests/e2e's business.
    return {
        "redis_url": servers.url(server),
        "key_prefix": key_prefix,
        "store_timeout_s": 10.0,
        "rag_index": index or "local",
    }


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts sidecars."""
    async with AsyncExitStack() as stack:
        yield Serve(stack)


@pytest.fixture
async def stub(serve: Serve, store_settings: dict[str, Any]) -> CacheServiceAsyncStub:
    """A sidecar on each kind of store."""
    return await serve(**store_settings)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """Stands for Anthropic; the test dictates its answers."""
    async with scripted_upstream() as server:
        yield server


@pytest.fixture
async def generating(
    serve: Serve, upstream: ScriptedUpstream
) -> Callable[..., Awaitable[CacheServiceAsyncStub]]:
    """Starts sidecars that ask ``upstream``, each request at once unless settings say otherwise."""

    async def start(**settings: Any) -> CacheServiceAsyncStub:
        usual = {
            "anthropic_api_key": "sk-secret",
            "anthropic_base_url": upstream.url,
            "batch_window_s": 0.0,
        }
        return await serve(**{**usual, **settings})

    return start
