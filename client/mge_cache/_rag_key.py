"""The canonical keys of the RAG cache: of a query, and of the partition that it belongs to.

Both are the SHA-256 of fields, each written as its length in bytes (unsigned, 64 bit, big endian)
followed by its bytes, as for prompts:

  1. the ASCII text "mge-cache/rag/1" (a partition: "mge-cache/rag-partition/1")
  2. namespace, UTF-8 (an empty one is written as "default")
  3. embedding model, UTF-8
  4. the embedding's dimension (unsigned, 64 bit, big endian: 8 bytes)
  5. collection, UTF-8
  6. index version, UTF-8
  7. the number of conditions of the filter (8 bytes, as the dimension)
  8. for each condition, in the order of the bytes of its name: its name, UTF-8; its text, UTF-8

and, for a query only:

  9. "q" if it has a text, "e" if not
 10. the text as ``normalised_query`` returns it, UTF-8; or the embedding as it was given: float32,
     little-endian, not normalised

The sidecar and both clients compute these keys here and nowhere else.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache._key import DEFAULT_NAMESPACE, count_field, length_prefixed, map_fields, utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOAT_BYTES = 4

_QUERY_SCHEMA = b"mge-cache/rag/1"
_PARTITION_SCHEMA = b"mge-cache/rag-partition/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RAGPartition:
    """What no result of a retrieval crosses. ``dimension`` is the embeddings'."""

    namespace: str = ""
    embedding_model: str
    dimension: int
    collection: str = ""
    index_version: str = ""
    filter: Mapping[str, str] = field(default_factory=dict)


def partition_key(partition: RAGPartition) -> bytes:
    """Return the 32 bytes that identify a partition.

    Raises InvalidRequestError for a text with a lone surrogate, as ``query_key`` does. Limits are
    the sidecar's to check.
    """
    encoding = length_prefixed(_PARTITION_SCHEMA, *_fields(partition))
    return hashlib.sha256(encoding).digest()


def query_key(partition: RAGPartition, *, query: str, embedding: bytes) -> bytes:
    """Return the 32 bytes that identify a query; without a text, the embedding's bytes do."""
    text = normalised_query(query)
    what = (b"q", utf8("query", text)) if text else (b"e", embedding)
    encoding = length_prefixed(_QUERY_SCHEMA, *_fields(partition), *what)
    return hashlib.sha256(encoding).digest()


def normalised_query(query: str) -> str:
    """Return the text in NFC, with runs of white space as one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", query).split())


def _fields(partition: RAGPartition) -> list[bytes]:
    return [
        utf8("namespace", partition.namespace or DEFAULT_NAMESPACE),
        utf8("embedding_model", partition.embedding_model),
        count_field(partition.dimension),
        utf8("collection", partition.collection),
        utf8("index_version", partition.index_version),
        *map_fields("filter", partition.filter),
    ]
