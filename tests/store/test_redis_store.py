"""What only a store on a server can do wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache_server.errors import StoreUnavailableError
from mge_cache_server.keys import KeyNames
from mge_cache_server.model import EntryKey
from tests.store.backends import RedisBackend

if TYPE_CHECKING:
    from tests.servers.fixtures import Servers

STRANGE, OURS = (EntryKey("ns", bytes([number]) * 32) for number in (1, 2))


async def test_a_value_of_another_type_leaves_other_keys_alone(
    servers: Servers, key_prefix: str
) -> None:
    backend = RedisBackend(servers.url("valkey9"), key_prefix, lambda: servers.client("valkey9"))
    with servers.client("valkey9") as client:
        client.rpush(KeyNames(key_prefix).entry(STRANGE), "not ours")
    store = backend.store()
    try:
        for _ in range(10):  # many times what opens the breaker
            with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
                await store.lookup(STRANGE)
        assert store.available
        assert (await store.lookup(OURS)).record is None
    finally:
        await store.close()
