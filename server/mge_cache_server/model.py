"""The domain's types. This module knows no gRPC, no Redis and no protobuf."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

LLM_LAYER = "llm"
RAG_LAYER = "rag"
SIMILAR_LAYER = "rag_similarity"
LAYERS: tuple[str, ...] = (LLM_LAYER, RAG_LAYER, SIMILAR_LAYER)
"""The values of the label ``cache_layer``, in the order in which statistics list them."""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """Addresses one entry: a namespace and the 32 bytes of a SHA-256."""

    namespace: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call to the provider consumed."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An LLM's answer and what it took to get it."""

    body: bytes
    content_type: str
    model: str
    usage: Usage
    cost_usd: float
    compute_s: float

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, but for what all answers take."""
        return len(self.body)


@dataclass(frozen=True, slots=True)
class Document:
    """What a retrieval found. ``score`` is the caller's, or a cosine where it was re-ranked."""

    id: str
    score: float
    content: bytes
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The result of a search for ``top_k`` documents, best first; there may be more of them.

    ``query`` is empty where texts are not kept. ``embedding`` is the query's, ``embeddings`` are
    the documents' one after the other (empty if one of them has none), in float32, little-endian;
    the query's is a unit vector, the documents' are as they were given. ``radius`` is the distance
    of the farthest document from the query, None where it certifies nothing (``rag_rerank``).
    """

    embedding_model: str
    query: str
    embedding: bytes
    top_k: int
    documents: tuple[Document, ...]
    embeddings: bytes
    radius: float | None
    cost_usd: float
    compute_s: float

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, but for what all answers take."""
        texts = len(self.query) + sum(map(_document_bytes, self.documents))
        return texts + len(self.embedding) + len(self.embeddings)


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer with what decides about its validity.

    ``tick`` is the namespace's clock as it stood when the computation of the answer began; the
    entry is valid while no epoch of any of its ``tags`` is later. ``created_ms`` is the writer's
    wall clock, in milliseconds since 1970; it serves only to show an age.
    """

    answer: Answer
    tick: int
    created_ms: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RagEntry:
    """A stored retrieval; what decides about its validity is as for ``Entry``.

    ``partition`` is the digest of the partition that the query belongs to.
    """

    answer: Retrieval
    tick: int
    created_ms: int
    tags: tuple[str, ...]
    partition: bytes


@dataclass(frozen=True, slots=True)
class Partition:
    """What no similar hit crosses. ``tags`` are those that all its entries have."""

    key: EntryKey
    dimension: int
    tags: tuple[str, ...]


AnyEntry = Entry | RagEntry
E = TypeVar("E", bound=AnyEntry)
E_co = TypeVar("E_co", bound=AnyEntry, covariant=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to compute an entry that is missing.

    ``token`` is what the store compares; ``tick`` travels with it, so that any sidecar can take the
    lease back.
    """

    key: EntryKey
    token: bytes
    tick: int
    ttl_s: float


class HitSource(enum.Enum):
    """Who answered a hit."""

    L1 = "l1"
    STORE = "store"
    FLIGHT = "flight"


@dataclass(frozen=True, slots=True)
class Hit(Generic[E_co]):
    """A look-up's answer. ``remaining_s`` is the time left until the entry expires."""

    entry: E_co
    source: HitSource
    remaining_s: float
    degraded: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer: compute it, with the lease if there is one."""

    lease: Lease | None = None
    in_progress: bool = False
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class RagHit:
    """A retrieval's documents, and how they were found.

    ``similarity`` is the cosine of the two queries, None if they are the same.
    """

    found: Hit[RagEntry]
    documents: tuple[Document, ...]
    similarity: float | None = None
    reranked: bool = False
    certified: bool = False


class SetStatus(enum.Enum):
    """What became of an answer that was to be stored."""

    STORED = "stored"
    KEPT_LOCALLY = "kept_locally"
    OVERTAKEN = "overtaken"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class SetOutcome:
    """What became of an answer, the time to live that it got, and what it cost."""

    status: SetStatus
    ttl_s: float
    cost_usd: float


class LeaseEnd(enum.Enum):
    """Why a held lease ended."""

    FULFILLED = "fulfilled"
    LOST = "lost"


_DOCUMENT_OVERHEAD_BYTES = 300


def _document_bytes(document: Document) -> int:
    metadata = sum(len(name) + len(text) + 100 for name, text in document.metadata.items())
    return _DOCUMENT_OVERHEAD_BYTES + len(document.id) + len(document.content) + metadata
