"""An HTTP server on made-up figures."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx

from mge_cache_server.counts import Counts
from mge_cache_server.http import HttpServer
from mge_cache_server.metrics import Metrics
from tests.unit.figures import Parts, reporter_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def make_server(
    counts: Counts | None = None,
    *,
    parts: Parts | None = None,
    ready: Callable[[], bool] = lambda: True,
    host: str = "127.0.0.1",
    port: int = 0,
) -> HttpServer:
    reporter = reporter_of(counts or Counts(), parts, clock=lambda: 0.0)
    return HttpServer(
        host=host, port=port, reporter=reporter, metrics=Metrics(reporter), ready=ready
    )


@asynccontextmanager
async def serving(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    address = await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
            yield client
    finally:
        await server.stop()
