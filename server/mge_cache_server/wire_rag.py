"""Requests of the RAG cache: protobuf to model, and the checks of what comes in (see ``wire``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache._rag_key import FLOAT_BYTES, RAGPartition, partition_key, query_key
from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server import keys, wire
from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.model import Document, EntryKey, Partition, Retrieval
from mge_cache_server.rag_cache import RagQuery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mge_cache_server.wire import Limits

DIMENSIONS_MAX = 8192
FILTER_MAX = 64
FILTER_BYTES_MAX = 64 * 1024
QUERY_BYTES_MAX = 64 * 1024
TOP_K_MAX = 100
TOP_K_DEFAULT = 10
DOCUMENTS_MAX = 1000


def place(identity: pb.RAGIdentity) -> tuple[EntryKey, Partition]:
    """Compute where a query and its partition are."""
    named = _partition(identity)
    if len(identity.query.encode()) > QUERY_BYTES_MAX:
        raise InvalidRequestError("identity.query", f"at most {QUERY_BYTES_MAX} bytes")
    digest = query_key(named, query=identity.query, embedding=identity.embedding)
    tags = (keys.model_tag(named.embedding_model), keys.collection_tag(named.collection))
    where = EntryKey(named.namespace, partition_key(named))
    return EntryKey(named.namespace, digest), Partition(where, named.dimension, tags)


def query(request: pb.QueryRAGRequest) -> RagQuery:
    """Return what a request asks for."""
    key, partition = place(request.identity)
    least = request.min_similarity if request.HasField("min_similarity") else -1.0
    if not -1 <= least <= 1:
        raise InvalidRequestError("min_similarity", "must be -1 to 1, or unset")
    return RagQuery(
        key=key,
        partition=partition,
        collection=request.identity.collection,
        embedding=request.identity.embedding,
        top_k=_top_k(request.top_k, TOP_K_DEFAULT),
        min_similarity=least,
        allow_similar=request.allow_similar if request.HasField("allow_similar") else True,
        certified_only=request.min_certainty == pb.CERTAINTY_CERTIFIED,
    )


def retrieval(request: pb.StoreRAGRequest, limits: Limits, default_usd: float) -> Retrieval:
    """Return the result that a request brings; its embeddings are as the caller sent them."""
    documents = request.documents
    if len(documents) > DOCUMENTS_MAX:
        raise InvalidRequestError("documents", f"at most {DOCUMENTS_MAX}")
    size = sum(map(_document_bytes, documents))
    if size > limits.answer_max_bytes:
        raise InvalidRequestError("documents", f"at most {limits.answer_max_bytes} bytes together")
    given_usd = wire.cost_usd(request)
    embeddings = [document.embedding for document in documents]
    if any(each and len(each) != len(request.identity.embedding) for each in embeddings):
        raise InvalidRequestError("documents", "embeddings must have the query's dimension")
    return Retrieval(
        embedding_model=request.identity.embedding_model,
        query=request.identity.query,
        embedding=request.identity.embedding,
        top_k=_top_k(request.top_k, max(1, min(TOP_K_MAX, len(documents)))),
        documents=tuple(map(_document, documents)),
        embeddings=b"".join(embeddings) if all(embeddings) else b"",
        radius=None,
        cost_usd=default_usd if given_usd is None else given_usd,
        compute_s=wire.compute_time(request),
    )


def tags(
    request: pb.StoreRAGRequest, key: EntryKey, partition: Partition, limits: Limits
) -> tuple[str, ...]:
    """Return all that a result can be invalidated by."""
    documents = (keys.document_tag(document.id) for document in request.documents)
    return wire.tags(request, key, limits, own=(*partition.tags, *documents))


def _partition(identity: pb.RAGIdentity) -> RAGPartition:
    embedding_bytes = len(identity.embedding)
    if not 0 < embedding_bytes <= DIMENSIONS_MAX * FLOAT_BYTES or embedding_bytes % FLOAT_BYTES:
        problem = f"must be float32, of 1 to {DIMENSIONS_MAX} dimensions"
        raise InvalidRequestError("identity.embedding", problem)
    conditions = dict(identity.filter)
    if len(conditions) > FILTER_MAX:
        raise InvalidRequestError("identity.filter", f"at most {FILTER_MAX}")
    if sum(map(_bytes, (*conditions, *conditions.values()))) > FILTER_BYTES_MAX:
        raise InvalidRequestError("identity.filter", f"at most {FILTER_BYTES_MAX} bytes together")
    model = wire.text("identity.embedding_model", identity.embedding_model, required=True)
    return RAGPartition(
        namespace=wire.namespace(identity.namespace),
        embedding_model=model,
        dimension=embedding_bytes // FLOAT_BYTES,
        collection=wire.text("identity.collection", identity.collection),
        index_version=wire.text("identity.index_version", identity.index_version),
        filter=conditions,
    )


def _top_k(given: int, default: int) -> int:
    if not 0 <= given <= TOP_K_MAX:
        raise InvalidRequestError("top_k", f"must be 1 to {TOP_K_MAX}, or unset")
    return given or default


def _document(document: pb.RAGDocument) -> Document:
    name = wire.text("documents.id", document.id, required=True)
    return Document(name, document.score, document.content, dict(document.metadata))


def _document_bytes(document: pb.RAGDocument) -> int:
    return len(document.content) + len(document.embedding) + sum(map(_bytes, _texts(document)))


def _texts(document: pb.RAGDocument) -> Iterator[str]:
    yield document.id
    for name, text in document.metadata.items():
        yield name
        yield text


def _bytes(text: str) -> int:
    return len(text.encode())
