"""The canonical keys of the RAG cache: of a query, and of the partition that it belongs to.

The head of cache_service.proto specifies them for all languages, with test vectors.
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
    return hashlib.sha256(encode_partition(partition)).digest()


def encode_partition(partition: RAGPartition) -> bytes:
    """Return the bytes whose SHA-256 is the key of a partition."""
    return length_prefixed(_PARTITION_SCHEMA, *_fields(partition))


def query_key(partition: RAGPartition, *, query: str, embedding: bytes) -> bytes:
    """Return the 32 bytes that identify a query; without a text, the embedding's bytes do."""
    return hashlib.sha256(encode_query(partition, query=query, embedding=embedding)).digest()


def encode_query(partition: RAGPartition, *, query: str, embedding: bytes) -> bytes:
    """Return the bytes whose SHA-256 is the key of a query."""
    text = normalised_query(query)
    what = (b"q", utf8("query", text)) if text else (b"e", embedding)
    return length_prefixed(_QUERY_SCHEMA, *_fields(partition), *what)


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
