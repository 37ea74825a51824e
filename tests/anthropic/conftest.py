"""A Messages API and sidecars, both real, and the SDK's own clients with the middleware between."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache_server import app
from mge_cache_server.config import Settings
from tests.anthropic.clients import Clients
from tests.anthropic.upstream import Upstream
from tests.e2e.sidecars import launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

__all__ = ["launch"]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A Messages API that answers at once."""
    with Upstream.serving() as upstream:
        yield upstream


@pytest.fixture
def zipping_upstream() -> Iterator[Upstream]:
    """The same, which compresses what it sends."""
    with Upstream.serving(zipped=True) as upstream:
        yield upstream


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[str]:
    """A sidecar in this process, behind a real gRPC server."""
    settings = replace(
        Settings(),
        redis_url="memory://",
        unix_socket=f"{tmp_path}/s",
        listen="",
        http_listen="",
        drain_s=1.0,
    )
    sidecar = app.build(settings)
    await sidecar.start()
    yield sidecar.targets[0]
    await sidecar.stop()


@pytest.fixture
async def clients(upstream: Upstream, target: str) -> AsyncIterator[Clients]:
    """The SDK's clients, of that API, with a middleware of that sidecar."""
    async with AsyncExitStack() as stack:
        yield Clients(stack, base_url=upstream.base_url, target=target)
