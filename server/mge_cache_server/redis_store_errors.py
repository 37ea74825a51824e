"""What the failures of redis-py mean to ``RedisStore``, and how a log may name them."""

from __future__ import annotations

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

_REFUSALS = frozenset({"MISCONF", "NOREPLICAS"})
"""Error codes for which redis-py has no classes."""


def refuses_writes(exc: Exception) -> bool:
    """Whether the server answers, but takes no writes: nothing that a breaker could help with."""
    if isinstance(exc, ReadOnlyError | OutOfMemoryError):
        return True
    return isinstance(exc, ResponseError) and reason(exc) in _REFUSALS


def reason(exc: BaseException) -> str:
    """Name a failure without its text, which may hold an address with a password."""
    if isinstance(exc, TimeoutError):
        return "deadline exceeded"
    code = str(exc).partition(" ")[0] if type(exc) is ResponseError else ""
    return code if code.isalpha() and code.isupper() else type(exc).__name__
