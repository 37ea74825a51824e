"""One lazily made connection to the sidecar, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from mge_cache._aio_watch import AsyncWatch
from mge_cache._channel import CHANNEL_OPTIONS, IS_THERE
from mge_cache._silence import OWN_TIMES, silences
from mge_cache._status import error_of, is_answer
from mge_cache.errors import ClientClosedError
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mge_cache._types import Timeouts
    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")


class AsyncConnection:
    """Makes a channel at the first use, in the event loop that uses it. Not thread safe.

    ``answered`` is called when the sidecar has answered the question whether it is there.
    """

    def __init__(self, target: str, *, timeouts: Timeouts, answered: Callable[[], object]) -> None:
        self._target = target
        self._channel: grpc.aio.Channel | None = None
        self._stub: CacheServiceAsyncStub | None = None
        self._closed = False
        self._answered = answered
        self._question_s = max(timeouts.get_s, timeouts.retry_s)
        self._question: asyncio.Task[None] | None = None
        self._silences = silences(timeouts, time.monotonic)
        self._soon, self._later = (AsyncWatch(each, ask=self.ask) for each in self._silences)
        self._left: set[asyncio.Future[Any]] = set()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    @property
    def stub(self) -> CacheServiceAsyncStub:
        """The generated stub. Raises ClientClosedError after ``close``."""
        if self._stub is None:
            self._stub = CacheServiceStub(self._open())
        return self._stub

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """Call one of the stub's unary methods; what fails is raised as an MgeCacheError."""
        return await self._outcome(method(message, timeout=deadline_s))

    async def look_up(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
        *,
        waits: bool,
    ) -> Response:
        """As ``call``; UnavailableError as soon as the sidecar hangs.

        ``waits``: the sidecar waits for another caller before it answers.
        """
        call = method(message, timeout=deadline_s * (1 if waits else OWN_TIMES))
        watch = self._later if waits else self._soon
        with watch.over(call.cancel, bounded=not waits) as wait:
            try:
                return await self._outcome(call)
            except asyncio.CancelledError:
                if wait.given_up is not None and not _is_cancelled():
                    raise wait.given_up from None
                raise

    async def store(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        message: Request,
        deadline_s: float,
    ) -> Response:
        """As ``call``; UnavailableError as soon as the sidecar hangs.

        The call goes on until its deadline all the same, as the sidecar may be back before.
        """
        storing = asyncio.ensure_future(self.call(method, message, deadline_s))
        hanging: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            with self._soon.over(lambda: hanging.set_result(None)) as wait:
                await asyncio.wait((storing, hanging), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            storing.cancel()
            raise
        if wait.given_up is None or storing.done():
            return storing.result()
        self._left.add(storing)
        storing.add_done_callback(self._left.discard)
        storing.add_done_callback(_note_outcome)
        raise wait.given_up

    def ask(self) -> None:
        """Ask the sidecar whether it is there, unless that is being asked. Waits for nothing."""
        if self._question is None and not self._closed:
            self._question = asyncio.create_task(self._ask())

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
                if not held.done():
                    with self._soon.over(held.cancel):
                        await asyncio.wait((held,), timeout=notice_s)
            finally:
                call.cancel()

    async def close(self) -> None:
        """Close the channel and end its calls. Closing again does nothing."""
        self._closed = True
        self._soon.close()
        self._later.close()
        question, self._question = self._question, None
        if question is not None:
            question.cancel()
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close(None)

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise ClientClosedError("the client is closed")
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        return self._channel

    async def _outcome(self, call: Awaitable[Response]) -> Response:
        try:
            response = await call
        except grpc.RpcError as exc:
            self._note(exc.code())
            raise error_of(exc.code(), exc.details()) from exc
        except asyncio.CancelledError:
            # Closing a channel cancels its calls; to their tasks that must not look as if they
            # themselves had been cancelled.
            if self._closed and not _is_cancelled():
                raise ClientClosedError("the client was closed during the call") from None
            raise
        for silence in self._silences:
            silence.heard()
        return response

    def _note(self, code: grpc.StatusCode, *, only_there: bool = False) -> None:
        for silence in self._silences:
            if is_answer(code):
                silence.heard(only_there=only_there)
            elif code is grpc.StatusCode.UNAVAILABLE:
                silence.disconnected()

    async def _ask(self) -> None:
        try:
            question = self._open().unary_unary(IS_THERE)  # type: ignore[call-arg]
            await question(b"", timeout=self._question_s)
            code = grpc.StatusCode.OK
        except grpc.RpcError as exc:
            code = exc.code()
        finally:
            self._question = None
        self._note(code, only_there=True)
        if is_answer(code):
            self._answered()


def _is_cancelled() -> bool:
    """Whether the running task itself is what was cancelled."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


def _note_outcome(future: asyncio.Future[Result]) -> None:
    """Look at an error, lest asyncio complains: of a hold, SetPrompt tells what matters of it."""
    if not future.cancelled():
        future.exception()
