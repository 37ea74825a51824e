"""The sidecar's own errors. ``interceptors`` has the one table that turns them into gRPC statuses.

MgeError
├── EmbeddedError            the embedded server cannot run here (in ``embedded``)
├── InvalidRequestError      the request is at fault; repeating it cannot help
├── StoreError               the store could not do it; repeating it later can help
│   ├── StoreUnavailableError    it did not answer in time, or not at all
│   └── StoreRefusedError        it answered, but refuses writes (read-only, out of memory)
└── AskError                 there is no answer from Anthropic; has ``retry_after_s``
    ├── QueueFullError           too many requests wait already
    ├── RateLimitedError         Anthropic's rate limit is reached
    ├── UpstreamUnavailableError Anthropic cannot be reached, fails, or is left alone
    ├── UpstreamRefusedError     Anthropic refuses this request; repeating it cannot help
    ├── NoKeyError               there is no key, or one that Anthropic refuses
    ├── AnswerTimeoutError       the caller's time is over
    ├── UnknownRequestError      nothing is known of a deferred request
    └── DefectError              a defect of ours
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


class AskError(MgeError):
    """There is no answer from Anthropic. ``retry_after_s``: when repeating can help, if known."""

    def __init__(self, problem: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class QueueFullError(AskError):
    """Too many requests wait already."""


class RateLimitedError(AskError):
    """Anthropic's rate limit is reached, and its retries were in vain."""


class UpstreamUnavailableError(AskError):
    """Anthropic cannot be reached, fails, or is left alone because it did."""


class UpstreamRefusedError(AskError):
    """Anthropic refuses this request; repeating it cannot help."""


class NoKeyError(AskError):
    """There is no key to Anthropic, or one that it refuses."""


class AnswerTimeoutError(AskError):
    """The time that the caller gave is over."""


class UnknownRequestError(AskError):
    """Nothing is known of a deferred request of this id."""


class DefectError(AskError):
    """A defect of ours; the log has it."""
