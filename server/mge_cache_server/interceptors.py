"""Around every RPC: errors become statuses, latencies are observed, failures carry a request id.

This wraps the handlers once, at registration, instead of being a ``grpc.aio.ServerInterceptor``,
which would be consulted at every call.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc

from mge_cache_server import errors
from mge_cache_server.errors import InvalidRequestError, MgeError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

_log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
"""Metadata key. A caller's own id is logged and sent back with a failure; else one is made."""

_STATUSES: tuple[tuple[type[MgeError], grpc.StatusCode], ...] = (
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
    (errors.QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.RateLimitedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UpstreamUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.UpstreamRefusedError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NoKeyError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.AnswerTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.UnknownRequestError, grpc.StatusCode.NOT_FOUND),
)
"""The one table of errors. UNAVAILABLE, RESOURCE_EXHAUSTED: repeating can help. INVALID_ARGUMENT,
FAILED_PRECONDITION: it cannot."""

_REQUEST_ID_CHARACTERS_MAX = 128

Context = Any
"""``grpc.aio.ServicerContext``, whose parameters nobody can name."""

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Unreadable:
    """Stands for a request whose bytes are no message."""


def unary(
    method: str,
    handler: Callable[[RequestT], Awaitable[ResponseT]],
    observe: Callable[[str, str, float], None],
) -> Callable[[RequestT | Unreadable, Context], Awaitable[ResponseT]]:
    """Wrap a unary handler; ``observe(method, code, seconds)`` is called at its end."""

    async def handle(request: RequestT | Unreadable, context: Context) -> ResponseT:
        started_s = time.perf_counter()
        code = "OK"
        try:
            return await handler(readable(request))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as exc:  # noqa: BLE001 - the boundary: every error becomes a status
            code = status_of(exc).name
            await _abort(method, context, exc)
        finally:
            observe(method, code, time.perf_counter() - started_s)

    return handle


def streaming(
    method: str,
    handler: Callable[[RequestT], AsyncGenerator[ResponseT, None]],
    observe: Callable[[str, str, float], None],
) -> Callable[[RequestT | Unreadable, Context], AsyncGenerator[ResponseT, None]]:
    """Wrap a handler with one request and a stream of responses."""

    async def handle(
        request: RequestT | Unreadable, context: Context
    ) -> AsyncGenerator[ResponseT, None]:
        started_s = time.perf_counter()
        code = "OK"
        try:
            async with aclosing(handler(readable(request))) as responses:
                async for response in responses:
                    yield response
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception as exc:  # noqa: BLE001 - the boundary: every error becomes a status
            code = status_of(exc).name
            await _abort(method, context, exc)
        finally:
            observe(method, code, time.perf_counter() - started_s)

    return handle


def bidirectional(
    method: str,
    handler: Callable[[AsyncIterator[RequestT | Unreadable]], AsyncGenerator[ResponseT, None]],
    observe: Callable[[str, str, float], None],
) -> Callable[[AsyncIterator[RequestT | Unreadable], Context], AsyncGenerator[ResponseT, None]]:
    """Wrap a handler with a stream of requests, which it checks (``readable``), and of responses.

    It is that of a handler with one request, which is the stream of them.
    """
    return streaming(method, handler, observe)


def readable(request: RequestT | Unreadable) -> RequestT:
    """Return a request; raises InvalidRequestError for bytes that were no message."""
    if isinstance(request, Unreadable):
        raise InvalidRequestError("request", "is not a message of the contract")
    return request


def status_of(exc: Exception) -> grpc.StatusCode:
    """Return the status of an error; INTERNAL for a defect of ours."""
    for kind, status in _STATUSES:
        if isinstance(exc, kind):
            return status
    return grpc.StatusCode.INTERNAL


async def _abort(method: str, context: Context, exc: Exception) -> NoReturn:
    status = status_of(exc)
    request_id = _request_id(context)
    details = str(exc)
    if status is grpc.StatusCode.INTERNAL:
        # A defect of ours. Its text may hold anything, so the caller gets only the id.
        _log.error("internal error", extra={"method": method, "id": request_id}, exc_info=exc)
        details = "internal error; see the sidecar's log"
    else:
        _log.debug("refused", extra={"method": method, "id": request_id, "code": status.name})
    await context.abort(status, details, ((REQUEST_ID, request_id),))
    raise AssertionError("abort returns never")


def _request_id(context: Context) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == REQUEST_ID and isinstance(value, str):
            return value[:_REQUEST_ID_CHARACTERS_MAX]
    return secrets.token_hex(8)
