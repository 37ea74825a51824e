"""The ways to the sidecar, of an event loop and of threads, and what goes on behind calls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from mge_cache.anthropic._record import NotStoredError, Record
from mge_cache.anthropic._recording import Recording
from mge_cache.errors import MgeCacheError

if TYPE_CHECKING:
    from mge_cache._leads import AsyncLead, Lead
    from mge_cache._types import Answer
    from mge_cache.aio import AsyncClient
    from mge_cache.anthropic._behind import Wire
    from mge_cache.anthropic._counts import Counts
    from mge_cache.anthropic._recording import Passed
    from mge_cache.sync import Client

STORING_THREADS = 4
PENDING_MAX = 64
"""So many answers may wait for these threads; the caller of one more stores its own."""


def answer_in(passed: Passed | str, wire: Wire, counts: Counts) -> Answer | None:
    """Return what is to be stored of a body (or of why there is none); None is counted."""
    if isinstance(passed, str):
        counts.add(f"not_stored/{passed}")
        return None
    try:
        return Record.of_response(passed.headers, passed.raw, wire).to_answer()
    except NotStoredError as exc:
        counts.add(f"not_stored/{exc.reason}")
        return None


class AsyncSide:
    """For one event loop. Answers are stored by tasks, of which ``close`` waits for the last."""

    def __init__(self, client: AsyncClient, counts: Counts, *, owned: bool) -> None:
        self.client = client
        self._owned = owned
        self._counts = counts
        self._fills: dict[asyncio.Task[None], asyncio.Future[Passed | str]] = {}

    def begin(self, lead: AsyncLead, wire: Wire, *, max_bytes: int) -> Recording:
        """Hold the lead until the recording that is returned ends, then store the answer."""
        loop = asyncio.get_running_loop()
        passing: asyncio.Future[Passed | str] = loop.create_future()
        task = loop.create_task(self._fill(lead, wire, passing, time.perf_counter()))
        self._fills[task] = passing
        task.add_done_callback(self._fills.pop)
        return Recording(
            max_bytes=max_bytes,
            done=partial(_resolve, passing),
            lost=partial(_resolve_from_anywhere, loop, passing),
        )

    async def close(self) -> None:
        """Wait until what has been read is stored; give up what is still being read."""
        for passing in self._fills.values():
            _resolve(passing, "failed")
        await asyncio.gather(*self._fills, return_exceptions=True)
        if self._owned:
            await self.client.close()

    async def _fill(
        self,
        lead: AsyncLead,
        wire: Wire,
        passing: asyncio.Future[Passed | str],
        started: float,
    ) -> None:
        try:
            async with lead.hold():
                await self._keep(lead, wire, await passing, started)
        except MgeCacheError:  # of a client that is not fail_open, or was closed
            self._counts.add("not_stored/error")
        except asyncio.CancelledError:
            # The loop is about to end, and waits for its tasks: what was paid for is stored yet.
            if passing.done() and not passing.cancelled():
                with contextlib.suppress(MgeCacheError):
                    await self._keep(lead, wire, passing.result(), started)
            raise

    async def _keep(self, lead: AsyncLead, wire: Wire, passed: Passed | str, began: float) -> None:
        answer = answer_in(passed, wire, self._counts)
        if answer is not None and not isinstance(passed, str):
            await lead.keep(answer, compute_s=passed.ended_at - began)


class SyncSide:
    """For threads. Answers are stored by a few of its own, for which ``close`` waits."""

    def __init__(self, client: Client, counts: Counts, *, owned: bool) -> None:
        self.client = client
        self._owned = owned
        self._counts = counts
        self._threads = ThreadPoolExecutor(STORING_THREADS, thread_name_prefix="mge-cache")
        self._room = threading.BoundedSemaphore(PENDING_MAX)

    def begin(self, lead: Lead, wire: Wire, *, max_bytes: int) -> Recording:
        """Hold the lead until the recording that is returned ends, then store the answer."""
        held = ExitStack()
        with contextlib.suppress(MgeCacheError):  # of a closed client; storing will tell
            held.enter_context(lead.hold())
        # Whoever drops the recording drops `held` with it, which lets go of the lease.
        return Recording(
            max_bytes=max_bytes,
            done=partial(self._done, lead, wire, held, time.perf_counter()),
            lost=lambda: None,
        )

    def close(self) -> None:
        """Wait until what has been read is stored."""
        self._threads.shutdown()
        if self._owned:
            self.client.close()

    def _done(
        self, lead: Lead, wire: Wire, held: ExitStack, began: float, passed: Passed | str
    ) -> None:
        finish = partial(self._finish, lead, wire, held, began, passed)
        if not self._room.acquire(blocking=False):
            finish()
            return
        try:
            self._threads.submit(finish).add_done_callback(lambda _: self._room.release())
        except RuntimeError:  # the interpreter, or this, is shutting down
            self._room.release()
            finish()

    def _finish(
        self, lead: Lead, wire: Wire, held: ExitStack, began: float, passed: Passed | str
    ) -> None:
        try:
            with held:
                answer = answer_in(passed, wire, self._counts)
                if answer is not None and not isinstance(passed, str):
                    lead.keep(answer, compute_s=passed.ended_at - began)
        except MgeCacheError:
            self._counts.add("not_stored/error")


def _resolve(passing: asyncio.Future[Passed | str], passed: Passed | str) -> None:
    if not passing.done():
        passing.set_result(passed)


def _resolve_from_anywhere(
    loop: asyncio.AbstractEventLoop, passing: asyncio.Future[Passed | str]
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the lease over with it
        loop.call_soon_threadsafe(_resolve, passing, "abandoned")
