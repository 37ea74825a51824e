"""A sidecar in a thread of this process, for tests without an event loop of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from mge_cache_server import app
from mge_cache_server.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def sidecar_thread() -> Iterator[str]:
    """Run one on its in-memory store; yields where it listens."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    settings = Settings(redis_url="memory://", listen="127.0.0.1:0", http_listen="", drain_s=1.0)

    async def start() -> app.App:
        sidecar = app.build(settings)
        await sidecar.start()
        return sidecar

    sidecar = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield sidecar.targets[0]
    finally:
        asyncio.run_coroutine_threadsafe(sidecar.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
