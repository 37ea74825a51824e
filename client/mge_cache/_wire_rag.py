"""The client's RAG types to protobuf and back. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache import _rag_types
from mge_cache._wire_parts import check_tags, duration, lease_of, seconds, source_of, token, ttl
from mge_cache.errors import InternalError, InvalidRequestError
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mge_cache._types import Lease

Documents = tuple[_rag_types.RagDocument, ...]
RagFound = _rag_types.RagHit | _rag_types.RagMiss

TOP_K_MAX = 100

_KINDS = {
    pb.RAG_HIT_KIND_EXACT: _rag_types.RagHitKind.EXACT,
    pb.RAG_HIT_KIND_SIMILAR: _rag_types.RagHitKind.SIMILAR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a look-up asks for. ``min_similarity``: None is the sidecar's threshold."""

    query: _rag_types.RagQuery
    top_k: int
    min_similarity: float | None
    allow_similar: bool
    min_certainty: _rag_types.Certainty

    def __post_init__(self) -> None:
        """Check the numbers, so that mistakes show before anything is paid for."""
        _top_k(self.top_k)
        similarity = self.min_similarity
        if similarity is not None and not -1 <= similarity <= 1:  # NaN is refused too
            raise InvalidRequestError("min_similarity", "must be a cosine, from -1 to 1")

    def request(
        self, *, wait_s: float = 0.0, lease_ttl_s: float = 0.0, asks_again: bool = False
    ) -> pb.QueryRAGRequest:
        """Ask for a result. ``lease_ttl_s`` = 0: the sidecar's default."""
        certified = self.min_certainty is _rag_types.Certainty.CERTIFIED
        return pb.QueryRAGRequest(
            identity=_identity(self.query),
            top_k=self.top_k,
            min_similarity=self.min_similarity,
            allow_similar=self.allow_similar,
            min_certainty=pb.CERTAINTY_CERTIFIED if certified else pb.CERTAINTY_SIMILAR,
            wait=duration("wait_s", wait_s),
            lease_ttl=duration("lease_ttl_s", lease_ttl_s),
            asks_again=asks_again,
        )


class RagFlight:
    """A ``Flight`` of a retrieval."""

    looks_up = "QueryRAG"
    stores = "StoreRAG"

    def __init__(self, wanted: Wanted, store: pb.StoreRAGRequest) -> None:
        self._wanted = wanted
        self._store = store

    @property
    def turn(self) -> Hashable:
        """The query."""
        return (self.stores, self._wanted.query.namespace, self._wanted.query.key)

    def asking(self, *, wait_s: float, lease_ttl_s: float, asks_again: bool) -> pb.QueryRAGRequest:
        """Look it up."""
        return self._wanted.request(wait_s=wait_s, lease_ttl_s=lease_ttl_s, asks_again=asks_again)

    def storing(
        self, result: Documents, *, lease: Lease | None, compute_s: float
    ) -> pb.StoreRAGRequest:
        """Store it."""
        return complete(self._store, result, lease=lease, compute_s=compute_s)


def store_request(
    query: _rag_types.RagQuery,
    *,
    top_k: int | None,
    exact_search: bool,
    cost_usd: float | None,
    ttl_s: float | None,
    masterplan: str | None,
    tags: Sequence[str],
    preloaded: bool = False,
) -> pb.StoreRAGRequest:
    """Store a result. ``complete`` adds it: mistakes in these fields show before it is paid for."""
    try:
        return pb.StoreRAGRequest(
            identity=_identity(query),
            top_k=0 if top_k is None else _top_k(top_k),
            exact_search=exact_search,
            cost_usd=cost_usd,
            ttl=ttl(ttl_s),
            masterplan=masterplan or "",
            tags=check_tags(tags),
            preloaded=preloaded,
        )
    except (TypeError, ValueError):
        raise InvalidRequestError(
            "cost_usd, masterplan or tags", "has the wrong type, or no UTF-8 form"
        ) from None


def complete(
    message: pb.StoreRAGRequest, documents: Documents, *, lease: Lease | None, compute_s: float
) -> pb.StoreRAGRequest:
    """Add the result to a message made by ``store_request``, and return it."""
    vector_bytes = len(message.identity.embedding)
    message.MergeFrom(
        pb.StoreRAGRequest(
            documents=[
                _document(number, document, vector_bytes)
                for number, document in enumerate(documents)
            ],
            compute_time=duration("compute_s", compute_s),
            lease=token(lease),
        )
    )
    return message


def documents_of(retrieved: Iterable[_rag_types.RagDocument]) -> Documents:
    """Read what a retrieval returned. Raises TypeError if these are no documents."""
    if not isinstance(retrieved, Iterable):
        raise TypeError(f"a retrieval must return documents, not {type(retrieved).__name__}")
    documents = tuple(retrieved)
    for document in documents:
        if not isinstance(document, _rag_types.RagDocument):
            raise TypeError(f"a document must be RagDocument, not {type(document).__name__}")
    return documents


def result_of(got: _rag_types.RagHit | Documents, *, top_k: int) -> _rag_types.RagResult:
    """Let what was retrieved look like what is found: without the over-fetched documents."""
    if isinstance(got, _rag_types.RagHit):
        return _rag_types.RagResult(documents=got.documents, hit=got)
    return _rag_types.RagResult(documents=got[:top_k])


def found_of(response: pb.QueryRAGResponse) -> RagFound:
    """Read what a look-up found. Raises InternalError for a response that says neither."""
    match response.WhichOneof("outcome"):
        case "hit":
            return _hit(response.hit)
        case "miss":
            miss = response.miss
            return _rag_types.RagMiss(
                lease=lease_of(miss), in_progress=miss.in_progress, degraded=miss.degraded
            )
    raise InternalError("QueryRAG's response is neither a hit nor a miss")


def _identity(query: _rag_types.RagQuery) -> pb.RAGIdentity:
    return pb.RAGIdentity(
        namespace=query.namespace,
        embedding_model=query.embedding_model,
        collection=query.collection,
        index_version=query.index_version,
        filter=query.filter,
        embedding=query.vector,
        query=query.query,
    )


def _top_k(top_k: int) -> int:
    if not 1 <= top_k <= TOP_K_MAX:
        raise InvalidRequestError("top_k", f"must be from 1 to {TOP_K_MAX}")
    return top_k


def _document(number: int, document: _rag_types.RagDocument, vector_bytes: int) -> pb.RAGDocument:
    name = f"documents[{number}]"
    if document.vector and len(document.vector) != vector_bytes:
        raise InvalidRequestError(f"{name}.embedding", "must have the dimensions of the query's")
    try:
        return pb.RAGDocument(
            id=document.id,
            score=document.score,
            content=document.content,
            metadata=document.metadata,
            embedding=document.vector,
        )
    except (TypeError, ValueError):
        raise InvalidRequestError(name, "a field of it has the wrong type or range") from None


def _hit(hit: pb.RAGHit) -> _rag_types.RagHit:
    kind = _KINDS.get(hit.kind)
    if kind is None:
        raise InternalError(f"QueryRAG's response has the unknown kind {hit.kind}")
    return _rag_types.RagHit(
        documents=tuple(
            _rag_types.RagDocument(
                document.id,
                document.content,
                score=document.score,
                metadata=document.metadata,
            )
            for document in hit.documents
        ),
        kind=kind,
        similarity=hit.similarity,
        age_s=seconds(hit.age),
        remaining_ttl_s=seconds(hit.remaining_ttl),
        source=source_of(hit.layer),
        cached_query=hit.cached_query,
        reranked=hit.reranked,
        certified=hit.certified,
        cost_saved_usd=hit.cost_saved_usd,
        degraded=hit.degraded,
    )
