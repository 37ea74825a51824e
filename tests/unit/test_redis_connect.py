"""Which connections the clients of Redis make; nothing is connected here."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from mge_cache_server.config import load_settings
from mge_cache_server.redis_store_connect import (
    SentinelTlsConnection,
    TlsConnection,
    connect,
    disconnect,
)


async def test_sentinels_and_the_primary_read_their_certificates_anew() -> None:
    settings = load_settings({"redis_url": "rediss+sentinel://h1,h2/service"}, {})
    client = connect(settings)
    assert isinstance(client, Redis)
    pool: Any = client.connection_pool
    assert pool.connection_class is SentinelTlsConnection
    sentinels = pool.sentinel_manager.sentinels
    assert [each.connection_pool.connection_class for each in sentinels] == [TlsConnection] * 2
    await disconnect(client)
