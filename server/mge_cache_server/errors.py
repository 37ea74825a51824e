"""The sidecar's own errors. ``interceptors`` has the one table that turns them into gRPC statuses.

MgeError
├── EmbeddedError            the embedded server cannot run here (in ``embedded``)
├── InvalidRequestError      the request is at fault; repeating it cannot help
└── StoreError               the store could not do it; repeating it later can help
    ├── StoreUnavailableError    it did not answer in time, or not at all
    └── StoreRefusedError        it answered, but refuses writes (read-only, out of memory)
"""

from __future__ import annotations


class MgeError(Exception):
    """The root of the tree. Texts never contain prompts, answers, keys or passwords."""


class InvalidRequestError(MgeError):
    """A field of the request is missing, malformed or over its limit."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class StoreError(MgeError):
    """The store could not do what was asked."""


class StoreUnavailableError(StoreError):
    """The store did not answer within its deadline, or refused the connection."""


class StoreRefusedError(StoreError):
    """The store answers, but does not take writes."""
