"""What the contract suite runs over: each backend makes stores on the same data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mge_cache_server.config import Settings
from mge_cache_server.keys import KeyNames
from mge_cache_server.memory_store import MemoryStore
from mge_cache_server.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis, RedisCluster

    from mge_cache_server.store import Store

# Long enough for a busy machine; only the test of a quiet feed has to wait for a part of it.
FEED_TIMEOUT_S = 5.0


class Backend(Protocol):
    """Data that any number of stores share, as those of several sidecars do."""

    def store(self, *, feed_timeout_s: float = FEED_TIMEOUT_S) -> Store:
        """Make another store on the data. The caller closes it."""

    async def plant_epoch(self, namespace: str, tag: str, tick: int) -> None:
        """Write an epoch of another time past the store. The namespace has a clock already."""

    async def lose_clock(self, namespace: str) -> None:
        """Remove a namespace's clock and epochs, as a server that lost its data does."""


class MemoryBackend:
    def __init__(self) -> None:
        self._first = MemoryStore()

    def store(self, *, feed_timeout_s: float = FEED_TIMEOUT_S) -> Store:
        assert feed_timeout_s > 0.25  # a MemoryStore's feed speaks that often
        return self._first.sibling()

    async def plant_epoch(self, namespace: str, tag: str, tick: int) -> None:
        self._first._data.namespaces[namespace].epochs[tag] = tick

    async def lose_clock(self, namespace: str) -> None:
        del self._first._data.namespaces[namespace]


@dataclass(frozen=True, slots=True)
class RedisBackend:
    """A deployment, a prefix in it that nobody else uses, and a client past the store."""

    url: str
    key_prefix: str
    client: Callable[[], Redis | RedisCluster]

    def store(self, *, feed_timeout_s: float = FEED_TIMEOUT_S) -> Store:
        settings = Settings(
            redis_url=self.url,
            key_prefix=self.key_prefix,
            # What a busy machine can keep: short deadlines are another suite's business.
            store_timeout_s=10.0,
            feed_timeout_s=feed_timeout_s,
        )
        return open_store(settings, observe=lambda _operation, _seconds: None)

    async def plant_epoch(self, namespace: str, tag: str, tick: int) -> None:
        with self.client() as client:
            client.zadd(KeyNames(self.key_prefix).epochs(namespace), {tag: tick})

    async def lose_clock(self, namespace: str) -> None:
        with self.client() as client:
            client.delete(KeyNames(self.key_prefix).epochs(namespace))
