"""What only vector sets do: clean-up of what is dead, and a server that stops serving them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.keys import KeyNames
from mge_cache_server.wire_rag import place
from tests.rpc.conftest import settings_of
from tests.rpc.test_rag import ask, documents, identity, ids, store
from tests.servers.fixtures import VECTOR_KINDS, own_server
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.conftest import Serve
    from tests.servers import RedisServer
    from tests.servers.fixtures import Servers

__all__ = ["own_server"]

MANY = 60
"""More than are looked at for one query."""


@pytest.fixture(params=VECTOR_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_settings(kind: str, request: pytest.FixtureRequest, key_prefix: str) -> dict[str, Any]:
    """Settings of an empty store."""
    return settings_of(f"{kind} vector-sets", request, key_prefix)


class Keys:
    """A partition's keys in Redis, seen past the sidecar."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._names = KeyNames(prefix)
        partition = place(identity())[1].key
        self.vectors, self.ends = self._names.vectors(partition)
        self.rows = self._names.rows(partition)

    def count(self) -> int:
        return int(self._client.execute_command("VCARD", self.vectors))

    def ended(self, query: str, degrees: float) -> None:
        """Remove an entry, as its expiry does; its vector stays."""
        assert self._client.delete(self._names.entry(place(identity(query, degrees))[0]))

    def exists(self, *names: str) -> int:
        return sum(int(self._client.exists(name)) for name in names)


@pytest.fixture
def keys(servers: Servers, kind: str, key_prefix: str) -> Iterator[Keys]:
    with servers.client(kind) as client:
        yield Keys(client, key_prefix)


def found_at(degrees: float) -> list[pb.RAGDocument]:
    return documents(degrees, degrees + 1)


async def store_at(stub: CacheServiceAsyncStub, degrees: float, **fields: Any) -> None:
    found = found_at(degrees)
    await store(stub, f"at {degrees}", degrees, documents=found, top_k=2, **fields)


async def test_no_rows_are_stored_beside_the_vectors(
    stub: CacheServiceAsyncStub, keys: Keys
) -> None:
    await store_at(stub, 0)
    assert (keys.count(), keys.exists(*keys.rows)) == (1, 0)

    async def told() -> bool:
        index = (await stub.Stats(pb.StatsRequest())).rag_index
        assert (index.kind, index.partitions, index.rows) == ("vector-sets", 1, 1)
        assert index.max_bytes == 0
        return index.bytes > 0

    await eventually(told)


async def test_a_dead_neighbour_is_passed_over_and_removed(
    stub: CacheServiceAsyncStub, keys: Keys
) -> None:
    for degrees in (0, 3, 6):
        await store_at(stub, degrees)
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="doc 0"))
    assert ids(await ask(stub, "asked", 0.5)) == ["doc 3", "doc 4"]
    await eventually(lambda: keys.count() == 2)
    assert ids(await ask(stub, "asked", 0.5)) == ["doc 3", "doc 4"]
    await store_at(stub, 0)
    assert ids(await ask(stub, "asked", 0.5)) == ["doc 0", "doc 1"]


async def test_many_dead_neighbours_do_not_hide_a_live_one_for_long(
    stub: CacheServiceAsyncStub, keys: Keys
) -> None:
    for number in range(MANY):
        await store_at(stub, number / 100, tags=["old"])
    await store_at(stub, 5)
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", tag="old"))

    async def hit() -> bool:  # each query frees the places of those that it found dead
        return ids(await ask(stub, "asked", 0.0)) == ["doc 5", "doc 6"]

    await eventually(hit)
    assert keys.count() < MANY


async def test_a_partition_that_is_dead_as_a_whole_goes_at_the_next_query(
    stub: CacheServiceAsyncStub, serve: Serve, store_settings: dict[str, Any], keys: Keys
) -> None:
    other = await serve(**store_settings)
    for number in range(MANY):
        await store_at(stub, number / 10)

    async def loaded() -> bool:  # its libraries, which first callers do not wait for
        return ids(await ask(other, "asked", 0.0)) == ["doc 0", "doc 1"]

    await eventually(loaded)
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", collection="faq"))
    assert keys.count() == MANY
    assert (await ask(stub, "asked", 0.0)).HasField("miss")
    assert keys.exists(keys.vectors, keys.ends) == 0
    await store_at(other, 1)

    async def hit() -> bool:
        return ids(await ask(stub, "asked", 0.0)) == ["doc 1", "doc 2"]

    await eventually(hit)
    assert ids(await ask(other, "asked", 0.0)) == ["doc 1", "doc 2"]


async def test_a_partition_expires_with_its_last_vector(
    stub: CacheServiceAsyncStub, keys: Keys
) -> None:
    await store_at(stub, 0, ttl=Duration(seconds=1))
    assert ids(await ask(stub, "asked", 0.0)) == ["doc 0", "doc 1"]
    await eventually(lambda: keys.exists(keys.vectors, keys.ends) == 0)
    assert (await ask(stub, "asked", 0.0)).HasField("miss")


async def test_an_entry_that_was_evicted_takes_its_vector_with_it(
    serve: Serve, store_settings: dict[str, Any], keys: Keys
) -> None:
    stub = await serve(**store_settings, l1_max_bytes=0)
    await store_at(stub, 0)
    keys.ended("at 0", 0)
    assert (await ask(stub, "near", 1.0)).HasField("miss")
    await ask(stub, "near", 1.0)
    await eventually(lambda: keys.count() == 0)


@pytest.fixture
def limited(own_server: Callable[..., RedisServer]) -> RedisServer:
    """A server whose rights a test changes."""
    return own_server("redis8")


async def errors_of(stub: CacheServiceAsyncStub, operation: str) -> int:
    stats = await stub.Stats(pb.StatsRequest())
    layers = {layer.cache_layer: layer for layer in stats.layers}
    return layers["rag"].errors_by_operation[operation]


async def test_a_search_that_fails_is_a_degraded_miss_and_disturbs_nothing_else(
    serve: Serve, limited: RedisServer, key_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stub = await serve(
        redis_url=limited.unix_url,
        key_prefix=key_prefix,
        store_timeout_s=10.0,
        rag_index="vector-sets",
        breaker_failures=1,
    )
    await store_at(stub, 0)
    assert (await ask(stub, "near", 1.0)).HasField("hit")
    limited.execute("ACL", "SETUSER", "default", "-vsim", "-vadd")
    for _ in range(3):
        miss = (await ask(stub, "near", 1.0)).miss
        assert miss.degraded
    assert miss.in_progress  # the first one has the lease, of the store
    assert await errors_of(stub, "search_vectors") == 3
    await store_at(stub, 2)
    assert await errors_of(stub, "put_vector") == 1
    assert (await ask(stub, "at 2", 2.0)).hit.kind == pb.RAG_HIT_KIND_EXACT
    assert (await stub.Stats(pb.StatsRequest())).store.available
    limited.execute("ACL", "SETUSER", "default", "+@all")
    assert (await ask(stub, "near", 1.0)).hit.kind == pb.RAG_HIT_KIND_SIMILAR
    told = [record.message for record in caplog.records if "vector sets" in record.message]
    assert told == ["vector sets cannot be used", "vector sets can be used again"]
