"""What the failures of redis-py mean to ``RedisStore``, and how a log may name them."""

from __future__ import annotations

from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from mge_cache_server.statistics import VECTOR_OPERATIONS

_REFUSALS = frozenset({"MISCONF", "NOREPLICAS"})
"""Error codes for which redis-py has no classes."""

# What a script may not do is no NOPERM: Valkey and Redis 8 write it so, then Redis 7.
_SCRIPT_DENIED = ("acl failure in script", "the user executing the script can't")

# To a command; in a script; and redis-py's own words for a cluster.
_UNKNOWN = ("unknown command", "unknown redis command", "command doesn't exist")

VECTOR_RIGHTS = "+vadd +vsim +vrem +vcard +memory|usage"


def refuses_writes(exc: Exception) -> bool:
    """Whether the server answers, but takes no writes: nothing that a breaker could help with."""
    if isinstance(exc, ReadOnlyError | OutOfMemoryError):
        return True
    return isinstance(exc, ResponseError) and reason(exc) in _REFUSALS


def concerns_others(operation: str, exc: Exception) -> bool:
    """Whether a failure says something about other operations too."""
    if reason(exc) == "WRONGTYPE":
        return False  # somebody else's value is at this key
    # A server without vector sets, or a user who may not use them: all else may go on.
    return operation not in VECTOR_OPERATIONS or vector_sets_problem(exc) is None


def vector_sets_problem(exc: Exception) -> str | None:
    """Say why vector sets cannot be used; None: the failure says nothing about that."""
    if is_denied(exc):
        return f"the user of Redis may not use vector sets: allow {VECTOR_RIGHTS}"
    text = str(exc).lower()
    if isinstance(exc, RedisError) and any(each in text for each in _UNKNOWN):
        return "the server has no vector sets: use Redis 8, or --rag-index local"
    return None


def is_denied(exc: Exception) -> bool:
    """Whether the user lacks a right."""
    text = str(exc).lower()
    return isinstance(exc, NoPermissionError) or any(each in text for each in _SCRIPT_DENIED)


def reason(exc: BaseException) -> str:
    """Name a failure without its text, which may hold an address with a password."""
    if isinstance(exc, TimeoutError):
        return "deadline exceeded"
    code = str(exc).partition(" ")[0] if type(exc) is ResponseError else ""
    return code if code.isalpha() and code.isupper() else type(exc).__name__
