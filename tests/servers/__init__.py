"""Real servers for tests: Redis 7, Redis 8, Valkey 9, Sentinel and Redis Cluster.

``fixtures`` has the fixtures; a folder's conftest.py imports those that it needs. Servers listen on
127.0.0.1 and on a unix socket, keep their data in a folder of their own, and end with the test run,
however that ends.
"""

from __future__ import annotations

from tests.servers.binaries import MissingServerError, find_binary
from tests.servers.cluster import RedisCluster
from tests.servers.redis_server import RedisServer
from tests.servers.sentinel import RedisSentinel
from tests.servers.tls import TlsFiles, make_tls_files

__all__ = [
    "MissingServerError",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "TlsFiles",
    "find_binary",
    "make_tls_files",
]
