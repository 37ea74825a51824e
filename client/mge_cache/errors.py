"""The errors of the client.

MgeCacheError
├── InvalidRequestError     a field is missing, malformed or over its limit: repeating cannot help
├── ClientClosedError       the client has been closed: repeating cannot help
└── SidecarError            the sidecar did not do it
    ├── UnavailableError        it (or, for Invalidate, its store) cannot be reached: repeat later
    ├── DeadlineExceededError   it did not answer in time: repeat later
    ├── RefusedError            it will not do it as it is configured: repeating cannot help
    └── InternalError           it failed, or answered what this client does not know

``retryable`` says on each class whether repeating the same call later can help. Texts contain no
prompts, answers, keys or leases.
"""

from __future__ import annotations

from typing import ClassVar


class MgeCacheError(Exception):
    """The root of the tree."""

    retryable: ClassVar[bool] = False


class InvalidRequestError(MgeCacheError):
    """A field is missing, malformed or over its limit; ``field`` names it ("" if unknown)."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[type[InvalidRequestError], tuple[str, str]]:
        """Let the error cross a process boundary."""
        return type(self), (self.field, self.problem)


class ClientClosedError(MgeCacheError):
    """The client was closed before or during the call."""


class SidecarError(MgeCacheError):
    """The sidecar did not do what was asked."""


class UnavailableError(SidecarError):
    """The sidecar cannot be reached, or what it needs for this call cannot."""

    retryable = True


class DeadlineExceededError(SidecarError):
    """The sidecar did not answer within the call's deadline."""

    retryable = True


class RefusedError(SidecarError):
    """The sidecar is configured not to do this, or knows no such method."""


class InternalError(SidecarError):
    """The sidecar failed, or its response makes no sense to this client."""
