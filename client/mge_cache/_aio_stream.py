"""Open calls of Generate, for asyncio: many requests on one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

import grpc

from mge_cache import _wire_generate
from mge_cache._reply import Reply
from mge_cache._stream_parts import broken_error, note_unknown, overdue

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache.errors import MgeCacheError
    from mge_cache.v1 import cache_service_pb2 as pb

    Call = grpc.aio.StreamStreamCall[pb.GenerateRequest, pb.GenerateResponse]


class AsyncReply(Reply):
    """A reply that can be waited for. ``changed`` and ``ended`` are set by the stream only."""

    def __init__(self, *, deferred: bool) -> None:
        super().__init__(deferred=deferred)
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Wake who waits for something new, or for the end."""
        self.changed.set()
        if self.outcome is not None:
            self.ended.set()
            if self.timer is not None:
                self.timer.cancel()


class AsyncStream:
    """One call, from its opening until it breaks. For one event loop.

    It reads as fast as replies come, whatever their readers do: a request's text is joined in its
    ``AsyncReply``. What is to be written is bounded by the requests under way: for each its start,
    and a cancellation after it. ``closed`` says whether the client was closed; ``once``: the call
    ends when nothing is under way any more.
    """

    def __init__(self, call: Call, *, closed: Callable[[], bool], once: bool) -> None:
        self.broken = False
        self._call = call
        self._once = once
        self._closed = closed
        self._replies: dict[str, AsyncReply] = {}
        self._outbox: deque[pb.GenerateRequest] = deque()
        self._to_write = asyncio.Event()
        # A write or read that is cancelled cancels the whole call: so no caller does either.
        self._writing = asyncio.create_task(self._write())
        self._reading = asyncio.create_task(self._read())

    def __contains__(self, request_id: str) -> bool:
        """Whether a request is under way."""
        return request_id in self._replies

    def __len__(self) -> int:
        """Count the requests under way."""
        return len(self._replies)

    def add(self, message: pb.GenerateRequest, *, within_s: float) -> AsyncReply:
        """Send a request whose id is not under way; end it if there is no end ``within_s``."""
        request_id = _wire_generate.id_of(message)
        reply = AsyncReply(deferred=_wire_generate.is_deferred(message))
        self._replies[request_id] = reply
        loop = asyncio.get_running_loop()
        reply.timer = loop.call_later(within_s, self._expire, request_id)
        self._send(message)
        return reply

    def give_up(self, request_id: str, error: MgeCacheError) -> None:
        """End a request with ``error``, here and at the sidecar; nothing if it is not under way."""
        reply = self._replies.pop(request_id, None)
        if reply is None:
            return
        reply.fail(error)
        reply.wake()
        for place, message in enumerate(self._outbox):
            if _wire_generate.id_of(message) == request_id:
                del self._outbox[place]  # the sidecar need not even know of it
                break
        else:
            self._send(_wire_generate.cancel_request(request_id))
        self._rest()

    async def close(self) -> None:
        """End the call, and with it what is under way."""
        self._call.cancel()
        await asyncio.wait((self._reading, self._writing))

    def _expire(self, request_id: str) -> None:
        self.give_up(request_id, overdue())

    def _send(self, message: pb.GenerateRequest) -> None:
        self._outbox.append(message)
        self._to_write.set()

    async def _write(self) -> None:
        # What fails here fails the read too, which tells everybody.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                while self._outbox:
                    await self._call.write(self._outbox.popleft())
                if self._once and not self._replies:
                    await self._call.done_writing()  # then the sidecar ends it
                    return

    async def _read(self) -> None:
        code, details = grpc.StatusCode.CANCELLED, ""
        try:
            async for response in self._call:
                self._dispatch(response)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as exc:
            code, details = exc.code(), exc.details() or ""
        finally:
            self._break(code, details)

    def _dispatch(self, response: pb.GenerateResponse) -> None:
        reply = self._replies.get(response.id)
        if reply is None:
            note_unknown(response)
            return
        goes_on = reply.receive(response)
        reply.wake()
        if reply.outcome is not None:
            del self._replies[response.id]
            if goes_on:
                self._send(_wire_generate.cancel_request(response.id))
            self._rest()

    def _rest(self) -> None:
        if self._once and not self._replies:
            self._to_write.set()

    def _break(self, code: grpc.StatusCode, details: str) -> None:
        self.broken = True
        self._call.cancel()
        self._writing.cancel()
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            # Each has an error of its own: many tasks will raise them.
            reply.fail(broken_error(code, details, closed=self._closed()))
            reply.wake()
