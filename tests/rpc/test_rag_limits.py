"""What QueryRAG and StoreRAG refuse, and which field they name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.test_rag import DIMENSION, ask, identity, pack, store

if TYPE_CHECKING:
    from tests.rpc.conftest import Serve

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"identity": identity(embedding_model="")}, "identity.embedding_model"),
    "no embedding": ({"identity": identity(embedding=b"")}, "identity.embedding"),
    "half a number": ({"identity": identity(embedding=b"\0" * 6)}, "identity.embedding"),
    "zero": ({"identity": identity(embedding=bytes(64))}, "identity.embedding"),
    "not finite": ({"identity": identity(embedding=pack([math.nan]))}, "identity.embedding"),
    "too large": ({"identity": identity(embedding=pack(8193 * [1.0]))}, "identity.embedding"),
    "namespace": ({"identity": identity(namespace="a b")}, "namespace"),
    "long query": ({"identity": identity("q" * 65537)}, "identity.query"),
    "filter": ({"identity": identity(filter={str(n): "" for n in range(65)})}, "identity.filter"),
    "long filter": ({"identity": identity(filter={"a": "b" * 65536})}, "identity.filter"),
    "top_k": ({"top_k": 101}, "top_k"),
    "negative top_k": ({"top_k": -1}, "top_k"),
}
BAD_QUERY: dict[str, tuple[dict[str, Any], str]] = {
    "similarity": ({"min_similarity": 1.1}, "min_similarity"),
    "wait": ({"wait": Duration(seconds=601)}, "wait"),
}
BAD_STORE: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"documents": [pb.RAGDocument()]}, "documents.id"),
    "long id": ({"documents": [pb.RAGDocument(id="x" * 257)]}, "documents.id"),
    "line end": ({"documents": [pb.RAGDocument(id="a\nb")]}, "documents.id"),
    "many": ({"documents": 1001 * [pb.RAGDocument(id="a")]}, "documents"),
    "large": ({"documents": [pb.RAGDocument(id="a", content=bytes(1 << 23))]}, "documents"),
    "dimension": ({"documents": [pb.RAGDocument(id="a", embedding=bytes(4))]}, "documents"),
    "zero document": (
        {"documents": [pb.RAGDocument(id="a", embedding=bytes(4 * DIMENSION))]},
        "documents",
    ),
    "cost": ({"cost_usd": -1.0}, "cost_usd"),
    "ttl": ({"ttl": Duration(seconds=8 * 86400)}, "ttl"),
    "lease": ({"lease": b"x"}, "lease"),
}


@pytest.mark.parametrize(("fields", "field"), [*BAD.values(), *BAD_QUERY.values()])
async def test_a_bad_query_is_refused_with_its_field(
    serve: Serve, fields: dict[str, Any], field: str
) -> None:
    stub = await serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(f"{field}: ")


@pytest.mark.parametrize(("fields", "field"), [*BAD.values(), *BAD_STORE.values()])
async def test_a_bad_result_is_refused_with_its_field(
    serve: Serve, fields: dict[str, Any], field: str
) -> None:
    stub = await serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await store(stub, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(f"{field}: ")
