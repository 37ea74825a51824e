"""From settings to a connected redis-py client: standalone, Sentinel or Cluster.

URLs: ``redis://``, ``rediss://`` (TLS) and ``unix://`` as redis-py knows them;
``redis+sentinel://host:port,host:port/SERVICE[/db]`` and ``redis+cluster://host:port,host:port``,
both also with ``rediss+``. A user and a password stand before an ``@`` as usual.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from redis.asyncio import (
    Connection,
    ConnectionPool,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

if TYPE_CHECKING:
    from mge_cache_server.config import Settings

CONNECTIONS_MAX = 64
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379, "": 6379}


class _Credentials(CredentialProvider):
    """Reads the password file at every connection, so that a rotated secret is picked up."""

    def __init__(self, username: str, password: str, password_file: str) -> None:
        self._username = username
        self._password = password
        self._password_file = password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password
        if self._password_file:
            try:
                password = Path(self._password_file).read_text(encoding="utf-8").strip()
            except OSError as exc:
                reason = f"password file cannot be read: {exc.strerror}"
                raise RedisConnectionError(reason) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        # redis-py's own logs a warning at each connection.
        return self.get_credentials()


class _FilesReadAnew:
    """Reads the PEM files at each connect: redis-py keeps what it has read as long as the object.

    The feed's connections and a cluster's are connected again and again.
    """

    ssl_context: Any

    def _connection_arguments(self) -> Any:
        self.ssl_context.context = None
        return super()._connection_arguments()  # type: ignore[misc] # SSLConnection's


class TlsConnection(_FilesReadAnew, SSLConnection):
    """A connection whose certificates may be rotated."""


class SentinelTlsConnection(_FilesReadAnew, SentinelManagedSSLConnection):
    """The same, to the primary that the Sentinels name."""


@dataclass(frozen=True, slots=True)
class _Target:
    topology: str
    tls: bool
    url: SplitResult

    def hosts(self) -> list[tuple[str, int]]:
        """Return the hosts named between the user's part and the path."""
        places = self.url.netloc.rpartition("@")[2]
        result = []
        for place in places.split(","):
            host, colon, port = place.rpartition(":")
            if not colon or not port.isdigit():
                host, port = place, str(_DEFAULT_PORTS[self.topology])
            result.append((unquote(host).strip("[]") or "localhost", int(port)))
        return result

    def user(self) -> tuple[str, str]:
        """Return the user and the password before the "@", each maybe empty."""
        name, _, password = self.url.netloc.rpartition("@")[0].partition(":")
        return unquote(name), unquote(password)


def _parse(url: str) -> _Target:
    parts = urlsplit(url)
    transport, _, topology = parts.scheme.partition("+")
    return _Target(topology, transport == "rediss", parts)


def _tls_options(settings: Settings) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": settings.redis_tls_ca_file or None,
        "ssl_certfile": settings.redis_tls_cert_file or None,
        "ssl_keyfile": settings.redis_tls_key_file or None,
    }


def _connection_options(settings: Settings, target: _Target) -> dict[str, Any]:
    username, password = target.user()
    username = settings.redis_username or username
    password = settings.redis_password or password
    options: dict[str, Any] = {
        # The deadline of an operation is RedisStore's; this one bounds background connections.
        "socket_connect_timeout": 1.0,
        "socket_timeout": None,
        # A pooled connection that a restart of the server has closed is opened again at once.
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "retry_on_error": [],
        "protocol": 2,
    }
    if password or settings.redis_password_file:
        options["credential_provider"] = _Credentials(
            username, password, settings.redis_password_file
        )
    return options


def _database(path: str) -> int:
    text = path.strip("/")
    return int(text) if text.isdigit() else 0


def _standalone(settings: Settings, target: _Target) -> Redis:
    options = _connection_options(settings, target)
    query = parse_qs(target.url.query)
    connection_class: type[Any] = Connection
    if target.url.scheme == "unix":
        connection_class = UnixDomainSocketConnection
        options["path"] = unquote(target.url.path)
        options["db"] = _database(query.get("db", ["0"])[0])
    else:
        [(options["host"], options["port"])] = target.hosts()
        options["db"] = _database(target.url.path)
        if target.tls:
            connection_class = TlsConnection
            options |= _tls_options(settings)
    pool = ConnectionPool(connection_class, max_connections=CONNECTIONS_MAX, **options)
    return Redis.from_pool(pool)


def _sentinel(settings: Settings, target: _Target) -> Redis:
    service, _, database = target.url.path.strip("/").partition("/")
    options = _connection_options(settings, target) | {"db": _database(database)}
    sentinel_options: dict[str, Any] = {
        "socket_timeout": 1.0,
        "socket_connect_timeout": 1.0,
    }
    if settings.sentinel_password_file:
        sentinel_options["credential_provider"] = _Credentials(
            "", "", settings.sentinel_password_file
        )
    if target.tls:
        options |= {"connection_class": SentinelTlsConnection} | _tls_options(settings)
        sentinel_options |= {"ssl": True} | _tls_options(settings)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        target.hosts(), sentinel_kwargs=sentinel_options, **options
    )
    if target.tls:
        for each in sentinel.sentinels:
            each.connection_pool.connection_class = TlsConnection
    master: Redis = sentinel.master_for(service, max_connections=CONNECTIONS_MAX)
    return master


def _cluster(settings: Settings, target: _Target) -> RedisCluster:
    options = _connection_options(settings, target)
    del options["retry_on_error"]
    options["socket_timeout"] = 1.0  # RedisStore abandons calls of this client, it cancels none.
    if target.tls:
        options |= {"ssl": True} | _tls_options(settings)
    nodes = [ClusterNode(host, port) for host, port in target.hosts()]
    client = RedisCluster(startup_nodes=nodes, max_connections=CONNECTIONS_MAX, **options)
    if target.tls:
        # For the nodes that it will learn of, and for those that it starts with.
        client.connection_kwargs["connection_class"] = TlsConnection
        for node in client.startup_nodes:
            node.connection_class = TlsConnection
    return client


def connect(settings: Settings) -> Redis | RedisCluster:
    """Make the client that ``settings.redis_url`` asks for. Does no I/O."""
    target = _parse(settings.redis_url)
    if target.topology == "sentinel":
        return _sentinel(settings, target)
    if target.topology == "cluster":
        return _cluster(settings, target)
    return _standalone(settings, target)


async def disconnect(client: Redis | RedisCluster) -> None:
    """Close a client, and the clients of Sentinels that it was made with."""
    await client.aclose()
    if not isinstance(client, RedisCluster):
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager is not None else ():
            await sentinel.aclose()
