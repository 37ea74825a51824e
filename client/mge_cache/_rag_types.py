"""What goes into the client's RAG calls and what comes out. Nothing here does I/O.

Queries, contents and embeddings are left out of every ``repr``, so that they do not end up in a
log.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache._embedding import embedding_bytes
from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._rag_key import FLOAT_BYTES, RAGPartition, query_key
from mge_cache._types import Miss, Source
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mge_cache._embedding import Embedding

TOP_K = 10
"""For how many documents a query asks, unless it says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RagQuery:
    """What a retrieval is made for: the query, and the partition that no result crosses.

    ``embedding``: bytes (float32, little-endian), numbers, or an array such as numpy's; of 1 to
    8192 dimensions, finite, not all 0; normalising it is the sidecar's business. Without a text in
    ``query`` the embedding says which query it is. The values are read once, here. Queries are
    equal if their keys are. Raises InvalidRequestError for what cannot be sent.
    """

    embedding_model: str = field(compare=False)
    embedding: Embedding = field(repr=False, compare=False)
    query: str = field(default="", repr=False, compare=False)
    collection: str = field(default="", compare=False)
    index_version: str = field(default="", compare=False)
    filter: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    namespace: str = field(default=DEFAULT_NAMESPACE, compare=False)
    vector: bytes = field(init=False, repr=False, compare=False)
    """The embedding as it is sent: float32, little-endian, not normalised."""
    key: bytes = field(init=False, repr=False)
    """The canonical key, 32 bytes."""

    def __post_init__(self) -> None:
        """Compute the key, which is also the check of the texts."""
        if not self.embedding_model:
            raise InvalidRequestError("embedding_model", "is required")
        conditions = _texts("filter", self.filter)
        vector = embedding_bytes("embedding", self.embedding)
        partition = RAGPartition(
            namespace=self.namespace,
            embedding_model=self.embedding_model,
            dimension=len(vector) // FLOAT_BYTES,
            collection=self.collection,
            index_version=self.index_version,
            filter=conditions,
        )
        key = query_key(partition, query=self.query, embedding=vector)
        object.__setattr__(self, "filter", conditions)
        object.__setattr__(self, "embedding", vector)
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "key", key)

    @property
    def dimension(self) -> int:
        """How many numbers the embedding has."""
        return len(self.vector) // FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class RagDocument:
    """A document that a retrieval found.

    ``id`` is what ``invalidate(document=...)`` names. ``content`` is the text's bytes or a
    reference. ``embedding`` (as ``RagQuery.embedding``) is that of the search's index: with it,
    similar hits can be ranked anew and certified. Hits come without it, and a re-ranked hit's
    ``score`` is the cosine to the new query.
    """

    id: str
    content: bytes = field(default=b"", repr=False)
    score: float = field(default=0.0, kw_only=True)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False, kw_only=True)
    embedding: Embedding | None = field(default=None, repr=False, compare=False, kw_only=True)
    vector: bytes = field(init=False, default=b"", repr=False)
    """The embedding as it is sent; empty without one."""

    def __post_init__(self) -> None:
        """Read the values once."""
        if not self.id:
            raise InvalidRequestError("id", "is required")
        object.__setattr__(self, "metadata", _texts("metadata", self.metadata))
        if self.embedding is not None:
            vector = embedding_bytes("embedding", self.embedding)
            object.__setattr__(self, "embedding", vector)
            object.__setattr__(self, "vector", vector)

    @property
    def text(self) -> str:
        """The content, decoded as UTF-8. Raises UnicodeDecodeError if it is something else."""
        return self.content.decode()


class Certainty(enum.Enum):
    """How much must be known of a similar hit."""

    SIMILAR = "similar"
    """The result of a near enough query will do."""
    CERTIFIED = "certified"
    """Only a result that is proven to be what the search itself would return."""


class RagHitKind(enum.Enum):
    """How a query was found."""

    EXACT = "exact"
    """By the same query."""
    SIMILAR = "similar"
    """By a similar one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RagHit:
    """A stored result: ``age_s`` seconds old, to expire in ``remaining_ttl_s``.

    ``similarity`` is the cosine of the two queries, 1 if exact. ``cached_query`` is the text of the
    query that the documents were retrieved for, if the sidecar keeps texts. ``reranked``: they were
    ranked anew for this query; ``certified``: it is proven that the search itself would return them
    (ties aside). ``degraded``: the store could not be asked whether it has been invalidated.
    """

    documents: tuple[RagDocument, ...]
    kind: RagHitKind
    similarity: float
    age_s: float
    remaining_ttl_s: float
    source: Source
    cached_query: str = field(default="", repr=False)
    reranked: bool = False
    certified: bool = False
    cost_saved_usd: float = 0.0
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RagMiss(Miss):
    """No stored result, as for a prompt. ``lease`` was handed out unless somebody else has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RagResult:
    """At most ``top_k`` documents, and the hit that they came from: None if they were retrieved."""

    documents: tuple[RagDocument, ...]
    hit: RagHit | None = None

    @property
    def source(self) -> Source:
        """Where the documents came from."""
        return self.hit.source if self.hit else Source.COMPUTED

    @property
    def cost_saved_usd(self) -> float:
        """Dollars that were not spent because nothing was retrieved."""
        return self.hit.cost_saved_usd if self.hit else 0.0


def _texts(name: str, mapping: Mapping[str, str]) -> Mapping[str, str]:
    """Copy a mapping of texts to texts."""
    copy = dict(mapping)
    if not all(isinstance(text, str) for pair in copy.items() for text in pair):
        raise InvalidRequestError(name, "must map texts to texts")
    return copy
