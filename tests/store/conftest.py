"""One backend of each kind, and stores on it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.servers.fixtures import SERVER_KINDS, key_prefix, own_server, servers, tls_files
from tests.store.backends import Backend, MemoryBackend, RedisBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mge_cache_server.store import Store
    from tests.servers.fixtures import Servers

__all__ = ["key_prefix", "own_server", "servers", "tls_files"]


@pytest.fixture(params=["memory", *SERVER_KINDS])
def kind(request: pytest.FixtureRequest) -> str:
    """What the store runs on."""
    return str(request.param)


@pytest.fixture
def backend(kind: str, servers: Servers, key_prefix: str) -> Backend:
    """Empty data of a kind."""
    if kind == "memory":
        return MemoryBackend()
    return RedisBackend(servers.url(kind), key_prefix, lambda: servers.client(kind))


@pytest.fixture
async def open_store(backend: Backend) -> AsyncIterator[Callable[[], Store]]:
    """Make further stores on the backend; they are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_another() -> Store:
            store = backend.store()
            stack.push_async_callback(store.close)
            return store

        yield open_another


@pytest.fixture
async def store(open_store: Callable[[], Store]) -> Store:
    """One sidecar's store."""
    opened = open_store()
    await opened.start()
    return opened


@pytest.fixture
async def other(open_store: Callable[[], Store]) -> Store:
    """Another sidecar's store on the same data."""
    opened = open_store()
    await opened.start()
    return opened
