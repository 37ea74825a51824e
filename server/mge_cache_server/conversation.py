"""One caller's stream of ``Generate``: requests come in, replies of many ids go out, interleaved.

Nothing is queued for a reader who is slow: whoever writes asks each request what is new when the
reader is ready for more, so that parts of a text are joined meanwhile. The number of requests under
way is bounded; their texts are, by their ``max_tokens``. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mge_cache_server import wire_generate
from mge_cache_server.deferred_fetch import Fetching
from mge_cache_server.errors import (
    AnswerTimeoutError,
    InvalidRequestError,
    MgeError,
    QueueFullError,
)
from mge_cache_server.generation import Completion
from mge_cache_server.interceptors import readable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache_server.batcher import Batcher
    from mge_cache_server.deferred_tickets import Tickets
    from mge_cache_server.generation import Strategy
    from mge_cache_server.interceptors import Unreadable
    from mge_cache_server.slots import Progress
    from mge_cache_server.wire import Limits

UNDER_WAY_MAX: Final = 1000
"""Requests of one stream; one more is refused with RESOURCE_EXHAUSTED."""
STREAMS_MAX: Final = 1000
"""Streams of all callers; one more is refused with RESOURCE_EXHAUSTED. A client needs one, and one
for each large request that is under way."""


class _Reader(Protocol):
    def take(self) -> Progress:
        """Return what is new."""

    def leave(self) -> None:
        """Stop reading."""


@dataclass(slots=True)
class _Wait:
    reader: _Reader
    alarm: asyncio.TimerHandle | None
    """None: the reader looks after the time itself."""

    def leave(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
        self.reader.leave()


class Conversation:
    """Serves one stream. It is in ``among`` while it does."""

    def __init__(
        self,
        batcher: Batcher,
        tickets: Tickets,
        limits: Limits,
        among: set[Conversation],
        *,
        strategy: Strategy,
    ) -> None:
        self._batcher = batcher
        self._tickets = tickets
        self._limits = limits
        self._among = among
        self._strategy = strategy
        self._waits: dict[str, _Wait] = {}
        self._ready: dict[str, None] = {}
        self._errors: deque[tuple[str, MgeError]] = deque()
        self._news = asyncio.Event()
        self._told = asyncio.Event()
        self._listening = True

    async def replies(
        self, requests: AsyncIterator[pb.GenerateRequest | Unreadable]
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Answer requests until there are no more and all are answered.

        Closing it gives up the rest. Raises what ``requests`` raises, after the answers.
        """
        self._among.add(self)
        listener = asyncio.get_running_loop().create_task(self._listen(requests))
        try:
            while True:
                for reply in self._new_replies():
                    yield reply
                if not self._listening and not self._waits and not self._errors:
                    break
                await self._news.wait()
                self._news.clear()
            if listener.done():
                listener.result()
        finally:
            self._among.discard(self)
            listener.cancel()
            # Before anything is waited for: that may be cancelled, too.
            for request_id in list(self._waits):
                self._end(request_id)
            await asyncio.wait([listener])

    def stop(self) -> None:
        """End the stream when what is under way is answered. The batcher refuses what comes."""
        self._listening = False
        self._news.set()

    async def _listen(self, requests: AsyncIterator[pb.GenerateRequest | Unreadable]) -> None:
        try:
            async for request in requests:
                self._take(readable(request))
                while len(self._errors) >= UNDER_WAY_MAX:
                    # The caller does not read what is wrong with its requests: no more of them.
                    self._told.clear()
                    await self._told.wait()
        finally:
            self.stop()

    def _take(self, request: pb.GenerateRequest) -> None:
        try:
            match request.WhichOneof("action"):
                case "start":
                    self._start(request.start)
                case "cancel":
                    self._end(request.cancel)
                case "fetch":
                    self._fetch(request.fetch)
                case _:
                    raise InvalidRequestError("action", "is required: start, cancel or fetch")
        except MgeError as exc:
            self._refuse("", exc)

    def _start(self, message: pb.GenerateStart) -> None:
        request_id = self._new_id("start.id", message.id)
        try:
            self._check_room()
            start = wire_generate.start(message, self._limits, self._strategy)
            reader = self._batcher.submit(start.request, lambda: self._wake(request_id))
        except MgeError as exc:
            self._refuse(request_id, exc)
            return
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(start.timeout_s, self._time_out, request_id, start.timeout_s)
        self._waits[request_id] = _Wait(reader, alarm)

    def _fetch(self, message: pb.GenerateFetch) -> None:
        request_id = self._new_id("fetch.id", message.id)
        try:
            self._check_room()
            wanted = wire_generate.fetch(message)
        except MgeError as exc:
            self._refuse(request_id, exc)
            return
        fetch = self._tickets.fetch(wanted.namespace, wanted.id, wanted.timeout_s)
        self._waits[request_id] = _Wait(Fetching(fetch, lambda: self._wake(request_id)), None)

    def _new_id(self, field: str, value: str) -> str:
        request_id = wire_generate.request_id(field, value)
        if request_id in self._waits:
            raise InvalidRequestError(field, f"{request_id!r} is under way on this stream")
        return request_id

    def _check_room(self) -> None:
        if len(self._waits) >= UNDER_WAY_MAX:
            raise QueueFullError(f"{UNDER_WAY_MAX} requests of this stream are under way")

    def _wake(self, request_id: str) -> None:
        self._ready[request_id] = None
        self._news.set()

    def _refuse(self, request_id: str, error: MgeError) -> None:
        self._errors.append((request_id, error))
        self._news.set()

    def _time_out(self, request_id: str, timeout_s: float) -> None:
        self._end(request_id)
        self._refuse(request_id, AnswerTimeoutError(f"no answer within {timeout_s:g} s"))

    def _end(self, request_id: str) -> None:
        wait = self._waits.pop(request_id, None)
        self._ready.pop(request_id, None)
        if wait is not None:
            wait.leave()
            self._news.set()

    def _new_replies(self) -> Iterator[pb.GenerateResponse]:
        """Write what is new, one reply at a time: between two of them more may happen."""
        while self._errors or self._ready:
            while self._errors:
                self._told.set()
                yield wire_generate.error_reply(*self._errors.popleft())
            if self._ready:
                request_id = next(iter(self._ready))
                del self._ready[request_id]
                yield from self._of(request_id)

    def _of(self, request_id: str) -> Iterator[pb.GenerateResponse]:
        progress = self._waits[request_id].reader.take()
        if progress.outcome is not None:
            # Before the replies are written: its id is free for another request.
            self._end(request_id)
        if progress.restarted:
            yield wire_generate.restart_reply(request_id)
        if progress.text:
            yield wire_generate.delta_reply(request_id, progress.text)
        if isinstance(progress.outcome, Completion):
            yield wire_generate.completion_reply(request_id, progress.outcome)
        elif progress.outcome is not None:
            yield wire_generate.error_reply(request_id, progress.outcome)


class Conversations:
    """All streams of a sidecar, at most ``streams_max``."""

    def __init__(
        self,
        batcher: Batcher,
        tickets: Tickets,
        limits: Limits,
        *,
        strategy: Strategy,
        streams_max: int = STREAMS_MAX,
    ) -> None:
        self._batcher = batcher
        self._tickets = tickets
        self._limits = limits
        self._strategy = strategy
        self._streams_max = streams_max
        self._open: set[Conversation] = set()

    def hold(
        self, requests: AsyncIterator[pb.GenerateRequest | Unreadable]
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Serve one stream; see ``Conversation.replies``. QueueFullError: it is one too many."""
        if len(self._open) >= self._streams_max:
            raise QueueFullError(f"{self._streams_max} streams of Generate are open")
        conversation = Conversation(
            self._batcher, self._tickets, self._limits, self._open, strategy=self._strategy
        )
        return conversation.replies(requests)

    def stop(self) -> None:
        """Let the streams end as soon as what is under way is answered."""
        for conversation in self._open:
            conversation.stop()
