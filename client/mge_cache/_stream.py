"""Open calls of Generate, for threads: many requests on one of them."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

import grpc

from mge_cache import _wire_generate
from mge_cache._reply import Reply
from mge_cache._stream_parts import broken_error, note_unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache.errors import MgeCacheError
    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub

_CLOSE_S = 5.0


class ThreadReply(Reply):
    """A reply that threads can wait for; whoever touches it holds ``changed``.

    ``on_end`` is called when it has ended, in some thread; it takes no lock.
    """

    def __init__(self, *, deferred: bool, deadline_s: float) -> None:
        super().__init__(deferred=deferred)
        self.deadline_s = deadline_s
        """By ``time.monotonic``."""
        self.changed = threading.Condition()
        self.on_end: Callable[[], None] | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether its time is over before it has ended."""
        return self.outcome is None and time.monotonic() >= self.deadline_s

    def end(self, error: MgeCacheError) -> None:
        """Fail, and wake who waits."""
        with self.changed:
            self.fail(error)
            self.changed.notify_all()
            on_end = self.on_end
        if on_end is not None:
            on_end()

    def take_in(self, response: pb.GenerateResponse) -> tuple[bool, bool]:
        """Receive, and wake who waits; return whether it is over, and what ``receive`` says."""
        with self.changed:
            goes_on = self.receive(response)
            self.changed.notify_all()
            over = self.outcome is not None
            on_end = self.on_end if over else None
        if on_end is not None:
            on_end()
        return over, goes_on

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have ``call`` called at the end, now if that has been."""
        with self.changed:
            ended = self.outcome is not None
            self.on_end = call
        if ended:
            call()

    def wait(self) -> None:
        """Wait for something new, or for the deadline, while holding ``changed``."""
        self.changed.wait(max(0.0, self.deadline_s - time.monotonic()))


class Stream:
    """One call, from its opening until it breaks. Any thread may use it.

    A thread of its own reads as fast as replies come, whatever their readers do: see
    ``AsyncStream``. Deadlines are watched by the threads that wait.
    """

    def __init__(self, stub: CacheServiceStub, *, closed: Callable[[], bool], once: bool) -> None:
        self._closed = closed
        self._once = once
        self._lock = threading.Lock()
        self._broken = False
        self._replies: dict[str, ThreadReply] = {}
        # It may be put into while the garbage collector runs, in whatever thread and with whatever
        # lock that one holds.
        self._outbox: queue.SimpleQueue[pb.GenerateRequest | None] = queue.SimpleQueue()
        self._call = stub.Generate(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, name="mge-cache-generate", daemon=True)
        self._reader.start()

    @property
    def broken(self) -> bool:
        """Whether the call has ended."""
        return self._broken

    def __contains__(self, request_id: str) -> bool:
        """Whether a request is under way."""
        return request_id in self._replies

    def __len__(self) -> int:
        """Count the requests under way."""
        return len(self._replies)

    def add(self, message: pb.GenerateRequest, *, within_s: float) -> ThreadReply:
        """Send a request whose id is not under way; if the call has ended, it fails at once."""
        reply = ThreadReply(
            deferred=_wire_generate.is_deferred(message),
            deadline_s=time.monotonic() + within_s,
        )
        with self._lock:
            broken = self._broken
            if not broken:
                self._replies[_wire_generate.id_of(message)] = reply
                self._outbox.put(message)
        if broken:
            reply.end(self._error(grpc.StatusCode.OK, ""))
        return reply

    def give_up(self, request_id: str) -> None:
        """End a request at the sidecar; nothing if it is not under way. Takes no lock."""
        if self._replies.pop(request_id, None) is not None:
            self._outbox.put(_wire_generate.cancel_request(request_id))
            self._rest()

    def close(self) -> None:
        """End the call, and with it what is under way."""
        self._call.cancel()  # type: ignore[no-untyped-call]
        self._reader.join(_CLOSE_S)

    def _read(self) -> None:
        code, details = grpc.StatusCode.CANCELLED, ""
        try:
            for response in self._call:
                self._dispatch(response)
            code = grpc.StatusCode.OK
        except grpc.RpcError as exc:
            code, details = exc.code(), exc.details() or ""
        finally:
            self._break(code, details)

    def _dispatch(self, response: pb.GenerateResponse) -> None:
        reply = self._replies.get(response.id)
        if reply is None:
            note_unknown(response)
            return
        over, goes_on = reply.take_in(response)
        if over:
            self._replies.pop(response.id, None)
            if goes_on:
                self._outbox.put(_wire_generate.cancel_request(response.id))
            self._rest()

    def _rest(self) -> None:
        if self._once and not self._replies:
            self._outbox.put(None)  # nothing more will be sent: then the sidecar ends it

    def _break(self, code: grpc.StatusCode, details: str) -> None:
        with self._lock:
            self._broken = True
            replies, self._replies = self._replies, {}
        self._outbox.put(None)  # ends gRPC's thread that takes from it
        self._call.cancel()  # type: ignore[no-untyped-call]
        for reply in replies.values():
            reply.end(self._error(code, details))

    def _error(self, code: grpc.StatusCode, details: str) -> MgeCacheError:
        return broken_error(code, details, closed=self._closed())
