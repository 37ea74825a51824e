"""Which store the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache_server.generation import DEFERRED_MAX_S
from mge_cache_server.memory_store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.config import Settings
    from mge_cache_server.redis_store_vectors import RedisVectors
    from mge_cache_server.store import Store

MEMORY_URL = "memory://"

_SLACK_S = 3600.0


def open_store(settings: Settings, *, observe: Callable[[str, float], None]) -> Store:
    """Make the store; does no I/O. ``observe(operation, seconds)`` follows each operation."""
    retention = retention_s(settings)
    if settings.redis_url == MEMORY_URL:
        return MemoryStore(retention_s=retention, alive_s=settings.feed_timeout_s / 4)
    from mge_cache_server.redis_store import RedisStore  # noqa: PLC0415 - not for memory://

    return RedisStore(settings, retention_s=retention, observe=observe)


def vectors_of(store: Store) -> RedisVectors:
    """Return the vector sets of a store on Redis (the settings allow them on no other)."""
    from mge_cache_server.redis_store import RedisStore  # noqa: PLC0415

    if not isinstance(store, RedisStore):
        raise TypeError("only a store on Redis has vector sets")
    return store.vectors


def retention_s(settings: Settings) -> float:
    """Return how long epochs are kept: longer than any entry lives, its computation included."""
    return settings.ttl_max_s + DEFERRED_MAX_S + _SLACK_S
