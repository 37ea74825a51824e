"""A request that was sent to Generate, as its asyncio caller sees it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mge_cache._stream_parts import abandoned
from mge_cache.errors import AbandonedError

if TYPE_CHECKING:
    from typing import Self

    from mge_cache._aio_stream import AsyncReply, AsyncStream
    from mge_cache._generate_types import Completion, Delta


class AsyncGeneration:
    """The answer to one request, as it grows.

    ``async for`` yields its deltas as they come; a reader who is slow gets fewer, longer ones, and
    holds nobody else up. ``await generation.result()`` is the whole of it, with or without having
    iterated. The texts of the deltas since the last one with ``restart``, joined, are the result's
    ``text``, even if it came from the cache in one piece. Both raise MgeCacheError.

    Abandoning it tells the sidecar to give it up: ``aclose``, leaving an ``async with`` block,
    cancelling a task that waits for it, or letting go of it. For the event loop that made it, and
    one iteration at a time.
    """

    def __init__(self, stream: AsyncStream, reply: AsyncReply, request_id: str) -> None:
        self.request_id = request_id
        """What ``fetch`` asks by, if the request is deferred."""
        self._stream = stream
        self._reply = reply
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        """Return the generation itself."""
        return self

    async def __anext__(self) -> Delta:
        """Wait for the next part of the text."""
        reply = self._reply
        while (delta := reply.take()) is None:
            if isinstance(reply.outcome, AbandonedError) or reply.result() is not None:
                raise StopAsyncIteration
            reply.changed.clear()
            await self._wait(reply.changed)
        return delta

    async def result(self) -> Completion:
        """Wait for the whole answer. Raises AbandonedError after ``aclose``."""
        while (completion := self._reply.result()) is None:
            await self._wait(self._reply.ended)
        return completion

    async def aclose(self) -> None:
        """Give the request up, and what of its text was not read, unless it has ended."""
        if self._reply.outcome is None:
            self._reply.drop()
            self._stream.give_up(self.request_id, abandoned())

    async def __aenter__(self) -> Self:
        """Return the generation itself."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Give it up if it has not ended."""
        await self.aclose()

    def __del__(self) -> None:
        """Give it up when nobody can read it any more, in whatever thread that shows."""
        if self._reply.outcome is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
                self._loop.call_soon_threadsafe(self._stream.give_up, self.request_id, abandoned())

    async def _wait(self, event: asyncio.Event) -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            await self.aclose()
            raise
