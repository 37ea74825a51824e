"""gRPC's statuses to the client's errors."""

from __future__ import annotations

import re

import grpc

from mge_cache.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    ResourceExhaustedError,
    SidecarError,
    UnavailableError,
)

_FIELD_NAMED = re.compile(r"([a-z_][\w.\[\]'-]{0,200}): (.*)", re.DOTALL)
_MESSAGE_TOO_LARGE = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")

_ERRORS: dict[grpc.StatusCode, type[SidecarError]] = {
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
    grpc.StatusCode.PERMISSION_DENIED: RefusedError,
    grpc.StatusCode.UNAUTHENTICATED: RefusedError,
}


# The client's own gRPC says these itself when nothing comes.
_NO_ANSWERS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


def is_answer(code: grpc.StatusCode) -> bool:
    """Whether a status shows that the sidecar is there."""
    return code not in _NO_ANSWERS


def error_of(
    code: grpc.StatusCode, details: str | None, *, retry_after_s: float | None = None
) -> InvalidRequestError | SidecarError:
    """Make the error that stands for a gRPC status.

    The sidecar's text for an invalid request is "field: problem". A message beyond what its gRPC
    takes is an invalid request too, whose field is not known: it was refused unread.
    """
    text = details or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        named = _FIELD_NAMED.fullmatch(text)
        return InvalidRequestError(*named.groups()) if named else InvalidRequestError("", text)
    too_large = _MESSAGE_TOO_LARGE.search(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and too_large:
        size, limit = map(int, too_large.groups())
        return InvalidRequestError(
            "", f"the message ({size:,} bytes) is larger than the sidecar takes ({limit:,} bytes)"
        )
    error = _ERRORS.get(code, InternalError)
    return error(f"{code.name}: {text}", code=code.name, retry_after_s=retry_after_s)
