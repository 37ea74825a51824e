"""A new version of an index, and what becomes of the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.keys import KeyNames
from mge_cache_server.wire_rag import place
from tests.rpc.conftest import settings_of
from tests.rpc.test_rag import ask, documents, identity, ids, store
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.servers.fixtures import Servers

SERVERS = ("valkey9", "redis8", "cluster", "redis8 vector-sets", "cluster8 vector-sets")


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store_settings(kind: str, request: pytest.FixtureRequest, key_prefix: str) -> dict[str, Any]:
    """Settings of an empty store, and of the index."""
    return settings_of(kind, request, key_prefix)


async def put(stub: CacheServiceAsyncStub, version: str, name: float, **fields: Any) -> None:
    where = identity(index_version=version)
    await store(stub, identity=where, documents=documents(name), top_k=1, **fields)


async def near(stub: CacheServiceAsyncStub, version: str) -> list[str]:
    where = identity("near", 1.0, index_version=version)
    return ids(await ask(stub, identity=where, top_k=1))


async def test_each_version_has_its_own_results(stub: CacheServiceAsyncStub) -> None:
    await put(stub, "1", 10)
    assert await near(stub, "1") == ["doc 10"]
    assert await near(stub, "2") == []
    await put(stub, "2", 20)
    assert (await near(stub, "1"), await near(stub, "2")) == (["doc 10"], ["doc 20"])


async def test_an_invalidation_of_the_collection_ends_all_versions(
    stub: CacheServiceAsyncStub,
) -> None:
    await put(stub, "1", 10)
    await put(stub, "2", 20)
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", document="doc 10"))
    assert (await near(stub, "1"), await near(stub, "2")) == ([], ["doc 20"])
    await put(stub, "1", 10)
    await stub.Invalidate(pb.InvalidateRequest(namespace="ns", collection="faq"))
    assert (await near(stub, "1"), await near(stub, "2")) == ([], [])
    await put(stub, "2", 21)
    assert (await near(stub, "1"), await near(stub, "2")) == ([], ["doc 21"])


async def test_an_old_version_that_nobody_uses_leaves_nothing_behind(
    stub: CacheServiceAsyncStub, servers: Servers, kind: str, key_prefix: str
) -> None:
    await put(stub, "1", 10, ttl=Duration(seconds=1))
    await put(stub, "2", 20)
    names = KeyNames(key_prefix)
    with servers.client(kind.split(maxsplit=1)[0]) as client:

        def keys_of(version: str) -> int:
            partition = place(identity(index_version=version))[1].key
            of_it = (*names.rows(partition), *names.vectors(partition))
            return sum(int(client.exists(name)) for name in of_it)

        assert keys_of("2") == 2
        await eventually(lambda: keys_of("1") == 0)
        assert keys_of("2") == 2
    assert (await near(stub, "1"), await near(stub, "2")) == ([], ["doc 20"])
