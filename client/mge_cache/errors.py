"""The errors of the client.

MgeCacheError
├── InvalidRequestError     a field is missing, malformed or over its limit: repeating cannot help
├── ClientClosedError       the client has been closed: repeating cannot help
├── AbandonedError          its own caller gave the request up: there is no result
└── SidecarError            the sidecar did not do it
    ├── UnavailableError        it (or what it needs: for Invalidate its store, for Generate
    │                           Anthropic) cannot be reached: repeat later
    ├── DeadlineExceededError   it did not answer in time: repeat later
    │   └── NotReadyError           a deferred answer is not there yet: fetch it later
    ├── ResourceExhaustedError  a queue is full, or a rate limit is reached: repeat later
    ├── NotFoundError           it knows nothing of this request: repeating cannot help
    ├── RefusedError            it will not do it as it is configured: repeating cannot help
    │   └── FailedPreconditionError  something must be mended first, e.g. its key to Anthropic
    └── InternalError           it failed, or answered what this client does not know

``retryable`` says on each class whether repeating the same call later can help. ``code`` is the
name of the gRPC status that an error stands for, "" if there was none, and ``retry_after_s`` says
when repeating can help, as far as the sidecar knows. Texts contain no prompts, answers, keys or
leases.
"""

from __future__ import annotations

from typing import ClassVar


class MgeCacheError(Exception):
    """The root of the tree."""

    retryable: ClassVar[bool] = False
    code: str = ""
    retry_after_s: float | None = None


class InvalidRequestError(MgeCacheError):
    """A field is missing, malformed or over its limit; ``field`` names it ("" if unknown)."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[type[InvalidRequestError], tuple[str, str]]:
        """Let the error cross a process boundary."""
        return type(self), (self.field, self.problem)


class ClientClosedError(MgeCacheError):
    """The client was closed before or during the call."""


class AbandonedError(MgeCacheError):
    """The request was given up by its own caller, who now asks for its result."""


class SidecarError(MgeCacheError):
    """The sidecar did not do what was asked."""

    def __init__(
        self, text: str = "", *, code: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.retry_after_s = retry_after_s


class UnavailableError(SidecarError):
    """The sidecar cannot be reached, or what it needs for this call cannot."""

    retryable = True


class DeadlineExceededError(SidecarError):
    """The sidecar did not answer within the call's deadline."""

    retryable = True


class NotReadyError(DeadlineExceededError):
    """The answer to a deferred request is not there yet; it is still being asked for."""


class ResourceExhaustedError(SidecarError):
    """A queue is full, or a rate limit is reached: the sidecar's, Anthropic's or the client's."""

    retryable = True


class NotFoundError(SidecarError):
    """The sidecar knows nothing of the request: there was none, or its answer has expired."""


class RefusedError(SidecarError):
    """The sidecar is configured not to do this, or knows no such method."""


class FailedPreconditionError(RefusedError):
    """Something must be mended first, e.g. the sidecar's key to Anthropic (missing or refused)."""


class InternalError(SidecarError):
    """The sidecar failed, or its response makes no sense to this client."""
