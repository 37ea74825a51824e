"""One lazily made connection to the sidecar, for threads."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import grpc

from mge_cache._channel import CHANNEL_OPTIONS, IS_THERE
from mge_cache._silence import OWN_TIMES, Wait, silences
from mge_cache._status import error_of, is_answer
from mge_cache._watch import Watch
from mge_cache.errors import ClientClosedError
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache._types import Timeouts
    from mge_cache.v1 import cache_service_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")


class Connection:
    """Makes a channel at the first use. Any thread may use it.

    ``answered`` is called when the sidecar has answered the question whether it is there.
    """

    def __init__(self, target: str, *, timeouts: Timeouts, answered: Callable[[], object]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stub: CacheServiceStub | None = None
        self._closed = False
        self._answered = answered
        self._question_s = max(timeouts.get_s, timeouts.retry_s)
        self._asking = False
        self._silences = silences(timeouts, time.monotonic)
        self._soon, self._later = (Watch(each, ask=self.ask) for each in self._silences)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def stub(self) -> CacheServiceStub:
        """The generated stub. Raises ClientClosedError after ``close``."""
        with self._lock:
            if self._stub is None:
                self._stub = CacheServiceStub(self._open())
            return self._stub

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """Call one of the stub's unary methods; what fails is raised as an MgeCacheError."""
        with self._errors():
            response = method(message, timeout=deadline_s)
        self._note(grpc.StatusCode.OK)
        return response

    def look_up(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
        *,
        waits: bool,
    ) -> Response:
        """As ``call``; UnavailableError as soon as the sidecar hangs.

        ``waits``: the sidecar waits for another caller before it answers.
        """
        with self._errors():
            call = method.future(message, timeout=deadline_s * (1 if waits else OWN_TIMES))
            watch = self._later if waits else self._soon
            return self._outcome(call, watch, Wait(call.cancel, bounded=not waits))

    def store(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """As ``call``; UnavailableError as soon as the sidecar hangs.

        The call goes on until its deadline all the same, as the sidecar may be back before.
        """
        with self._errors():
            call = method.future(message, timeout=deadline_s)
            return self._outcome(call, self._soon, Wait(lambda: None, bounded=False))

    def ask(self) -> None:
        """Ask the sidecar whether it is there, unless that is being asked. Waits for nothing."""
        with self._lock:
            if self._asking or self._closed:
                return
            self._asking = True
            question = self._open().unary_unary(IS_THERE)  # type: ignore[call-arg]
            call = question.future(b"", timeout=self._question_s)
        call.add_done_callback(lambda _: self._told(call))

    @contextlib.contextmanager
    def hold(self, message: pb.HoldLeaseRequest, *, notice_s: float) -> Iterator[None]:
        """Keep HoldLease open while the block runs; give the sidecar ``notice_s`` to notice."""
        call = self._open_hold(message)
        try:
            yield
        finally:
            # A call that is cancelled before the sidecar has seen it hands nothing over; but one
            # that hangs must not keep this thread.
            noticing = threading.Thread(target=call.initial_metadata, daemon=True)
            noticing.start()
            give_up_at_s = time.monotonic() + notice_s

            def noticed(within_s: float) -> bool:
                noticing.join(within_s)
                return not noticing.is_alive() or time.monotonic() > give_up_at_s

            self._soon.until(noticed, Wait(call.cancel, bounded=False))
            call.cancel()  # type: ignore[no-untyped-call]
            noticing.join()

    def close(self) -> None:
        """Close the channel and end its calls. Closing again does nothing."""
        with self._lock:
            self._closed = True
            channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()

    def _open(self) -> grpc.Channel:
        """Return the channel. The lock must be held."""
        if self._closed:
            raise ClientClosedError("the client is closed")
        if self._channel is None:
            self._channel = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        return self._channel

    def _open_hold(self, message: pb.HoldLeaseRequest) -> grpc.CallIterator[pb.HoldLeaseResponse]:
        with self._errors():
            return self.stub.HoldLease(message)

    def _outcome(self, call: grpc.CallFuture[Response], watch: Watch, wait: Wait) -> Response:
        def done(within_s: float) -> bool:
            try:
                call.exception(timeout=within_s)  # type: ignore[call-arg]  # the stub lacks it
            except grpc.FutureTimeoutError:
                return False
            except grpc.FutureCancelledError:
                pass
            return True

        try:
            watch.until(done, wait)
        except BaseException:  # as Ctrl-C
            call.cancel()  # type: ignore[no-untyped-call]
            raise
        if wait.given_up is not None:
            raise wait.given_up
        response = call.result()
        self._note(grpc.StatusCode.OK)
        return response

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what a call in the block fails with as an MgeCacheError."""
        try:
            yield
        except grpc.RpcError as exc:
            if self._closed:
                raise ClientClosedError("the client was closed during the call") from exc
            self._note(exc.code())
            raise error_of(exc.code(), exc.details()) from exc
        except ValueError as exc:  # what a channel raises that another thread has just closed
            if not self._closed:
                raise
            raise ClientClosedError("the client is closed") from exc

    def _note(self, code: grpc.StatusCode, *, only_there: bool = False) -> None:
        for silence in self._silences:
            if is_answer(code):
                silence.heard(only_there=only_there)
            elif code is grpc.StatusCode.UNAVAILABLE:
                silence.disconnected()

    def _told(self, call: grpc.CallFuture[bytes]) -> None:
        """Take the answer to the question, in a thread of gRPC's."""
        with self._lock:
            self._asking = False
        self._note(call.code(), only_there=True)
        if is_answer(call.code()):
            self._answered()
