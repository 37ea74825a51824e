"""One lazily made connection to the sidecar, for threads."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

import grpc

from mge_cache._channel import CHANNEL_OPTIONS
from mge_cache._status import error_of
from mge_cache.errors import ClientClosedError
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mge_cache.v1 import cache_service_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")


class Connection:
    """Makes a channel at the first use. Any thread may use it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stub: CacheServiceStub | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def stub(self) -> CacheServiceStub:
        """The generated stub. Raises ClientClosedError after ``close``."""
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
            if self._stub is None:
                self._channel = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
                self._stub = CacheServiceStub(self._channel)
            return self._stub

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """Call one of the stub's unary methods; what fails is raised as an MgeCacheError."""
        try:
            return method(message, timeout=deadline_s)
        except grpc.RpcError as exc:
            if self._closed:
                raise ClientClosedError("the client was closed during the call") from exc
            raise error_of(exc.code(), exc.details()) from exc
        except ValueError as exc:  # what a channel raises that another thread has just closed
            if not self._closed:
                raise
            raise ClientClosedError("the client is closed") from exc

    @contextlib.contextmanager
    def hold(self, message: pb.HoldLeaseRequest, *, notice_s: float) -> Iterator[None]:
        """Keep HoldLease open while the block runs; give the sidecar ``notice_s`` to notice."""
        call = self._open_hold(message)
        try:
            yield
        finally:
            # A call that is cancelled before the sidecar has seen it hands nothing over; but one
            # that hangs must not keep this thread.
            hanging = threading.Timer(notice_s, call.cancel)
            hanging.start()
            call.initial_metadata()
            hanging.cancel()
            call.cancel()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the channel and end its calls. Closing again does nothing."""
        with self._lock:
            self._closed = True
            channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()

    def _open_hold(self, message: pb.HoldLeaseRequest) -> grpc.CallIterator[pb.HoldLeaseResponse]:
        try:
            return self.stub.HoldLease(message)
        except ValueError as exc:  # as above
            if not self._closed:
                raise
            raise ClientClosedError("the client is closed") from exc
