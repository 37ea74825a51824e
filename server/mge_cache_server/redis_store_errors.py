"""What the failures of redis-py mean to ``RedisStore``, and how a log may name them."""

from __future__ import annotations

from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from mge_cache_server.statistics import VECTOR_OPERATIONS

_REFUSALS = frozenset({"MISCONF", "NOREPLICAS"})
"""Error codes for which redis-py has no classes."""


def refuses_writes(exc: Exception) -> bool:
    """Whether the server answers, but takes no writes: nothing that a breaker could help with."""
    if isinstance(exc, ReadOnlyError | OutOfMemoryError):
        return True
    return isinstance(exc, ResponseError) and reason(exc) in _REFUSALS


def concerns_others(operation: str, exc: Exception) -> bool:
    """Whether a failure says something about other operations too."""
    if reason(exc) == "WRONGTYPE":
        return False  # somebody else's value is at this key
    # A server that has no vector sets, or a user who may not use them: all else may go on. What
    # redis-py has no class for, an unknown command in particular, is a plain ResponseError.
    missing = type(exc) is ResponseError and reason(exc) in {"ERR", "ResponseError"}
    return operation not in VECTOR_OPERATIONS or not (missing or isinstance(exc, NoPermissionError))


def reason(exc: BaseException) -> str:
    """Name a failure without its text, which may hold an address with a password."""
    if isinstance(exc, TimeoutError):
        return "deadline exceeded"
    code = str(exc).partition(" ")[0] if type(exc) is ResponseError else ""
    return code if code.isalpha() and code.isupper() else type(exc).__name__
