"""What the streams of both clients have in common: their limits, and how they tell of failures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from mge_cache._status import error_of
from mge_cache.errors import (
    AbandonedError,
    ClientClosedError,
    DeadlineExceededError,
    InvalidRequestError,
    MgeCacheError,
    ResourceExhaustedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from mge_cache.v1 import cache_service_pb2 as pb

LOGGER = logging.getLogger("mge_cache")

REQUESTS_MAX = 1000
"""Requests of one client that may be under way at once: as many as a sidecar takes of a stream."""
LARGE_BYTES = 1 << 20
"""A request from this size on has a call of its own: the others do not wait until it is sent, and
if it is more than the sidecar's gRPC takes, which ends the call, it is alone in that."""

# Statuses that would meet the next stream as well. All others mean that this one broke.
_LASTING = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def broken_error(code: grpc.StatusCode, details: str, *, closed: bool) -> MgeCacheError:
    """Make the error of a request that was under way when its stream ended with this status."""
    if closed:
        return ClientClosedError("the client was closed during the call")
    if code in _LASTING:
        return error_of(code, details)
    if code is grpc.StatusCode.OK:
        return UnavailableError("UNAVAILABLE: the sidecar ended the stream", code="UNAVAILABLE")
    return UnavailableError(
        f"UNAVAILABLE: the stream broke ({code.name}: {details})", code="UNAVAILABLE"
    )


def abandoned() -> AbandonedError:
    """Make the error of a request that its own caller gave up."""
    return AbandonedError("the request was given up")


def overdue() -> DeadlineExceededError:
    """Make the error of a request that the sidecar did not end within its time."""
    text = "DEADLINE_EXCEEDED: the sidecar did not end the request within its time"
    return DeadlineExceededError(text, code="DEADLINE_EXCEEDED")


def too_many() -> ResourceExhaustedError:
    """Make the error of a request that is one too many."""
    text = f"RESOURCE_EXHAUSTED: {REQUESTS_MAX} requests of this client are under way"
    return ResourceExhaustedError(text, code="RESOURCE_EXHAUSTED")


def id_in_use() -> InvalidRequestError:
    """Make the error of a request whose id another one has."""
    return InvalidRequestError("request_id", "is that of a request which is under way")


def note_unknown(response: pb.GenerateResponse) -> None:
    """Log a reply to nobody, unless it is to a request that was given up while it was under way."""
    if not response.id:
        # The ids of this client are checked before they are sent, so that this is a defect.
        LOGGER.warning(
            "the sidecar's error %d belongs to no request: %s",
            response.error.code,
            response.error.message,
        )


def check_in_flight(max_in_flight: int) -> int:
    """Refuse a bound that lets nothing through, or more than a client sends."""
    if not 1 <= max_in_flight <= REQUESTS_MAX:
        raise InvalidRequestError("max_in_flight", f"must be from 1 to {REQUESTS_MAX}")
    return max_in_flight
