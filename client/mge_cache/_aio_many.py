"""Many requests, some of them at once: for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from mge_cache._generate_types import Generated
from mge_cache._stream_parts import check_in_flight
from mge_cache.errors import MgeCacheError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from mge_cache._aio_generation import AsyncGeneration
    from mge_cache._types import PromptRequest

    Requests = Iterable[PromptRequest] | AsyncIterable[PromptRequest]


class Many:
    """Keeps at most ``max_in_flight`` requests under way, or done and not yet taken. Runs once."""

    def __init__(
        self, generate: Callable[[PromptRequest], AsyncGeneration], *, max_in_flight: int
    ) -> None:
        self._generate = generate
        self._slots = asyncio.Semaphore(check_in_flight(max_in_flight))
        # Bounded by the slots. An exception is a defect, None is the end.
        self._done: asyncio.Queue[Generated | BaseException | None] = asyncio.Queue()
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self, requests: Requests) -> AsyncGenerator[Generated, None]:
        """Yield what becomes of each."""
        feeding = asyncio.create_task(self._feed(requests))
        try:
            while (done := await self._done.get()) is not None:
                if isinstance(done, BaseException):
                    raise done
                self._slots.release()
                yield done
            await feeding  # raises what reading the requests raised
        finally:
            tasks = {feeding, *self._answers}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _feed(self, requests: Requests) -> None:
        try:
            index = 0
            async with contextlib.aclosing(_each(requests)) as each:
                async for request in each:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._answer(index, request))
                    self._answers.add(task)
                    task.add_done_callback(self._finished)
                    index += 1
        finally:
            if self._answers:
                await asyncio.wait(self._answers)
            self._done.put_nowait(None)

    async def _answer(self, index: int, request: PromptRequest) -> None:
        try:
            completion = await self._generate(request).result()
        except MgeCacheError as exc:
            self._done.put_nowait(Generated(index=index, request=request, error=exc))
        else:
            self._done.put_nowait(Generated(index=index, request=request, completion=completion))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._done.put_nowait(defect)


async def _each(requests: Requests) -> AsyncGenerator[PromptRequest, None]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
