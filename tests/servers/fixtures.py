"""Fixtures: one server of each kind for a whole run (of an xdist worker), and fresh names in it.

A folder's conftest.py imports those that it needs, and names them in its ``__all__``.
A test that breaks a server makes one of its own: ``own_server("redis7")``.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from tests.servers import (
    MissingServerError,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    TlsFiles,
    make_tls_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

__all__ = [
    "SERVER_KINDS",
    "VECTOR_KINDS",
    "key_prefix",
    "own_server",
    "servers",
    "tls_files",
]

SERVER_KINDS = ("valkey9", "redis8", "redis7", "sentinel", "cluster")
VECTOR_KINDS = ("redis8", "cluster8")
"""Those that have vector sets."""

_CLUSTERS = {"cluster": "valkey9", "cluster8": "redis8"}


class _Startable(Protocol):
    def start(self) -> object: ...

    def close(self) -> None: ...


_T = TypeVar("_T")
_S = TypeVar("_S", bound=_Startable)


def require(make: Callable[[], _T]) -> _T:
    """Make or find a server; skip where it is missing, or fail if MGE_CACHE_REQUIRE_SERVERS=1."""
    try:
        return make()
    except MissingServerError as missing:
        if os.environ.get("MGE_CACHE_REQUIRE_SERVERS") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


class Servers:
    """Starts a server of a kind when it is first asked for, and keeps it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, Any] = {}

    def url(self, kind: str) -> str:
        """Return the URL of the server of a kind (see SERVER_KINDS and VECTOR_KINDS)."""
        if kind == "sentinel":
            return self.sentinel().url
        if kind in _CLUSTERS:
            return self.cluster(kind).url
        return self.single(kind).unix_url

    def client(self, kind: str) -> redis.Redis | redis.RedisCluster:
        """Return the tests' own client of the data of a kind; close it."""
        if kind == "sentinel":
            return self.sentinel().primary.client()
        if kind in _CLUSTERS:
            return self.cluster(kind).client()
        return self.single(kind).client()

    def single(self, kind: str) -> RedisServer:
        """Return the server of "valkey9", "redis8" or "redis7"."""
        return self._get(kind, lambda: RedisServer(kind))

    def sentinel(self) -> RedisSentinel:
        """Return a primary and a replica with a sentinel."""
        return self._get("sentinel", RedisSentinel)

    def cluster(self, kind: str = "cluster") -> RedisCluster:
        """Return a cluster of three primaries: "cluster" of Valkey, "cluster8" of Redis 8."""
        return self._get(kind, lambda: RedisCluster(_CLUSTERS[kind]))

    def _get(self, name: str, make: Callable[[], _S]) -> _S:
        if name not in self._started:
            server = require(make)
            self._stack.callback(server.close)
            server.start()
            self._started[name] = server
        started: _S = self._started[name]
        return started


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers that tests share: use your own ``key_prefix``, leave them as they were."""
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
def own_server() -> Iterator[Callable[..., RedisServer]]:
    """Make servers (the arguments are RedisServer's) that are running, and only this test's."""
    with ExitStack() as stack:

        def make(kind: str = "valkey9", **options: Any) -> RedisServer:
            server = require(lambda: RedisServer(kind, **options))
            stack.callback(server.close)
            return server.start()

        yield make


@pytest.fixture
def key_prefix() -> str:
    """A prefix of Redis keys that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """Certificates for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    return require(lambda: make_tls_files(folder))
