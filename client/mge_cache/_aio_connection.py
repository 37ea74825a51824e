"""One lazily made connection to the sidecar, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

import grpc

from mge_cache._channel import CHANNEL_OPTIONS
from mge_cache._status import error_of
from mge_cache.errors import ClientClosedError
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncConnection:
    """Makes a channel at the first use, in the event loop that uses it. Not thread safe."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._stub: CacheServiceAsyncStub | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def stub(self) -> CacheServiceAsyncStub:
        """The generated stub. Raises ClientClosedError after ``close``."""
        if self._closed:
            raise ClientClosedError("the client is closed")
        if self._stub is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
            self._stub = CacheServiceStub(self._channel)
        return self._stub

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """Call one of the stub's unary methods; what fails is raised as an MgeCacheError."""
        try:
            return await method(message, timeout=deadline_s)
        except grpc.RpcError as exc:
            raise error_of(exc.code(), exc.details()) from exc
        except asyncio.CancelledError:
            # Closing a channel cancels its calls; to their tasks that must not look as if they
            # themselves had been cancelled.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise ClientClosedError("the client was closed during the call") from None
            raise

    @contextlib.asynccontextmanager
    async def hold(self, message: pb.HoldLeaseRequest, *, notice_s: float) -> AsyncIterator[None]:
        """Keep HoldLease open while the block runs; give the sidecar ``notice_s`` to notice."""
        call = self.stub.HoldLease(message)
        held = asyncio.ensure_future(call.wait_for_connection())
        held.add_done_callback(_note_outcome)
        try:
            # One turn of the loop sends it, so that a computation that blocks the loop is covered.
            await asyncio.sleep(0)
            yield
        finally:
            # A call that is cancelled before the sidecar has seen it hands nothing over.
            try:
                await asyncio.wait((held,), timeout=notice_s)
            finally:
                call.cancel()

    async def close(self) -> None:
        """Close the channel and end its calls. Closing again does nothing."""
        self._closed = True
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close(None)


def _note_outcome(held: asyncio.Future[None]) -> None:
    """Look at the error of a hold, lest asyncio complains: SetPrompt tells what matters of it."""
    if not held.cancelled():
        held.exception()
