"""One call of a ``CachedRetriever``: what it asks, and what its caller gets. Does no I/O."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mge_cache import _wire_rag
from mge_cache._cached_documents import DocumentShape, ReadHit
from mge_cache._json import canonical_json
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._rag_types import Certainty, RagHitKind, RagQuery
from mge_cache._shape_errors import UnreadableError
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mge_cache._rag_types import RagDocument, RagHit, RagResult

D = TypeVar("D")

FETCH_MAX = 200
"""For how many documents a source is asked at most because of over-fetching."""


class Documents(list[D]):
    """The documents of a retrieval, best first; a list like any other.

    ``hit`` tells of the cached result that they came from; None if they were retrieved.
    """

    def __init__(self, documents: Iterable[D], *, hit: RagHit | None = None) -> None:
        super().__init__(documents)
        self.hit = hit


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverStats:
    """What a ``CachedRetriever`` has done so far; calls while it was switched off do not count.

    ``hits`` by the same query, ``similar_hits`` by a similar one, ``retrieved``: the source was
    asked. ``uncached`` counts, by reason, what could not be cached (see docs/retrieval.md).
    ``failures``: look-ups and stores that the sidecar did not do; they are in ``retrieved`` too.
    """

    hits: int
    similar_hits: int
    retrieved: int
    uncached: Mapping[str, int]
    failures: int


class RetrieverCounts:
    """Counts for ``RetrieverStats``. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def outcome(self, hit: RagHit | None) -> None:
        """Count how a caller's documents were found."""
        with self._lock:
            self._outcomes["retrieved" if hit is None else hit.kind.value] += 1

    def uncached(self, reason: str) -> None:
        """Count what could not be cached."""
        with self._lock:
            self._reasons[reason] += 1

    def stats(self, *, failures: int) -> RetrieverStats:
        """Return the counts."""
        with self._lock:
            return RetrieverStats(
                hits=self._outcomes[RagHitKind.EXACT.value],
                similar_hits=self._outcomes[RagHitKind.SIMILAR.value],
                retrieved=self._outcomes["retrieved"],
                uncached=dict(self._reasons),
                failures=failures,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What a call is made with. The constructor of ``CachedRetriever`` describes them."""

    embedding_model: str
    collection: str
    k: int
    index_version: str = ""
    filter: Mapping[str, object] = field(default_factory=dict, repr=False)
    namespace: str = DEFAULT_NAMESPACE
    masterplan: str | None = None
    tags: Sequence[str] = ()
    ttl_s: float | None = None
    cost_usd: float | None = None
    min_similarity: float | None = None
    allow_similar: bool = True
    min_certainty: Certainty = Certainty.SIMILAR
    exact_search: bool = False
    wait_s: float = 10.0

    def check(self) -> None:
        """Raise InvalidRequestError for what no query could be sent with."""
        query = self.query("", [1.0])
        _wire_rag.Wanted(
            query=query,
            top_k=self.k,
            min_similarity=self.min_similarity,
            allow_similar=self.allow_similar,
            min_certainty=self.min_certainty,
        ).request(wait_s=self.wait_s)
        _wire_rag.store_request(
            query,
            top_k=self.k,
            exact_search=self.exact_search,
            cost_usd=self.cost_usd,
            ttl_s=self.ttl_s,
            masterplan=self.masterplan,
            tags=self.tags,
        )

    def query(self, text: str, embedding: Any) -> RagQuery:
        """Return what is looked up. Conditions are part of it as canonical JSON: "1" is not 1."""
        conditions = {
            name: canonical_json(value, field="filter") for name, value in self.filter.items()
        }
        return RagQuery(
            embedding_model=self.embedding_model,
            embedding=embedding,
            query=text,
            collection=self.collection,
            index_version=self.index_version,
            filter=conditions,
            namespace=self.namespace,
        )


class Retrieving:
    """Remembers what the source returned, so that its caller gets that and no copy.

    ``fetch_k``: for how many documents the source is asked. For one call.
    """

    def __init__(self, query: RagQuery, shape: DocumentShape, *, k: int, fetch_k: int) -> None:
        self.query = query
        self.fetch_k = fetch_k
        self.carries: bool | None = None
        """Whether the documents have embeddings; None if there were none."""
        self._shape = shape
        self._k = k
        self._found: list[Any] = []

    def documents(self, found: Iterable[Any]) -> tuple[RagDocument, ...]:
        """Return what is to be stored; raises NotStoredError if it cannot be.

        Everything is read here: its caller may change the documents as soon as it has them.
        """
        self._found = list(found)
        documents = self._shape.documents(
            self._found, top_k=self._k, dimension_bytes=len(self.query.vector)
        )
        if documents:
            self.carries = bool(documents[0].vector)
        return documents

    def result(self, result: RagResult | None = None) -> Documents[Any]:
        """Return what the caller gets."""
        if result is None or result.hit is None:
            return Documents(self._found[: self._k])
        assert isinstance(result.hit, ReadHit)  # noqa: S101 - ``read`` made it
        return Documents(result.hit.values, hit=result.hit)


def readable(shape: DocumentShape, counts: RetrieverCounts, hit: RagHit) -> RagHit | None:
    """Read a hit's documents; None, and counted, if this process cannot."""
    try:
        return shape.read(hit)
    except UnreadableError:
        counts.uncached("unreadable")
        return None


def retrieving(
    options: CallOptions,
    shape: DocumentShape,
    counts: RetrieverCounts,
    *,
    query: str,
    embedding: Any,
    over_fetch: int,
) -> Retrieving | None:
    """Prepare a call; None, and counted, if it cannot be cached: then the source is asked."""
    if not 1 <= options.k <= _wire_rag.TOP_K_MAX:
        counts.uncached("k")
        return None
    try:
        asked = options.query(query, embedding)
    except InvalidRequestError:
        counts.uncached("query")
        return None
    fetch_k = max(options.k, min(options.k * over_fetch, FETCH_MAX))
    return Retrieving(asked, shape, k=options.k, fetch_k=fetch_k)
