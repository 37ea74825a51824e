"""Retrievals as stored bytes: records of version 2 (``codec`` has the form of all), and rows.

Figures: cost in USD, compute time in s and radius (3 x float64; NaN: no radius), top_k, dimension,
number of documents (3 x uint16), 1 if the documents have embeddings, length of the query's text
(uint32). Texts: the embedding model, the partition's digest in hexadecimal, the tags. Body: the
query's text, its embedding, then each document (score as float64, lengths of id, content and
metadata as uint32; these three, the metadata as JSON), then all documents' embeddings. Embeddings
are in float32, little-endian.

A row of a partition is the tick of its entry (uint64) and the embedding.
"""

from __future__ import annotations

import json
import math
import struct

from mge_cache_server.codec import Parts, RecordError, join, split
from mge_cache_server.model import Document, RagEntry, Retrieval

FLOAT_BYTES = 4

VERSION = 2

_FIGURES = struct.Struct(">3d3HBI")
_DOCUMENT = struct.Struct(">d3I")
_TICK = struct.Struct(">Q")
_NO_RADIUS = math.nan


def encode(entry: RagEntry) -> bytes:
    """Write an entry as a record; raises ValueError for a tag with a line end."""
    found = entry.answer
    query = found.query.encode()
    radius = _NO_RADIUS if found.radius is None else found.radius
    dimension = len(found.embedding) // FLOAT_BYTES
    figures = _FIGURES.pack(
        *(found.cost_usd, found.compute_s, radius, found.top_k, dimension),
        *(len(found.documents), bool(found.embeddings), len(query)),
    )
    body = [query, found.embedding]
    for document in found.documents:
        body += _document_parts(document)
    body.append(found.embeddings)
    texts = (found.embedding_model, entry.partition.hex())
    return join(
        VERSION,
        Parts(entry.tick, entry.created_ms, figures, texts, entry.tags, b"".join(body)),
    )


def decode(record: bytes) -> RagEntry:
    """Read a record; raises RecordError where it is damaged or of another version."""
    parts = split(VERSION, _FIGURES.size, record)
    figures = _FIGURES.unpack(parts.figures)
    cost_usd, compute_s, radius, top_k, dimension, count, embedded, query_bytes = figures
    body = _Reader(parts.body)
    vector_bytes = dimension * FLOAT_BYTES
    try:
        partition = bytes.fromhex(parts.texts[1])
        retrieval = Retrieval(
            embedding_model=parts.texts[0],
            query=body.take(query_bytes).decode(),
            embedding=body.take(vector_bytes),
            top_k=top_k,
            documents=tuple(_document(body) for _ in range(count)),
            embeddings=body.take(count * vector_bytes if embedded else 0),
            radius=None if math.isnan(radius) else radius,
            cost_usd=cost_usd,
            compute_s=compute_s,
        )
    except (ValueError, struct.error):
        # Not `from exc`: that error may hold the bytes.
        raise RecordError("malformed documents") from None
    return RagEntry(retrieval, parts.tick, parts.created_ms, parts.tags, partition)


def pack_row(tick: int, embedding: bytes) -> bytes:
    """Write a row of a partition."""
    return _TICK.pack(tick) + embedding


def unpack_row(row: bytes, dimension: int) -> tuple[int, memoryview]:
    """Read a row: tick and embedding; raises RecordError where its length is wrong."""
    if len(row) != _TICK.size + dimension * FLOAT_BYTES:
        raise RecordError("a row of another length")
    return _TICK.unpack_from(row)[0], memoryview(row)[_TICK.size :]


class _Reader:
    """Takes a body apart, from its front to its end."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, length: int) -> bytes:
        """Return the next bytes; raises ValueError where there are not so many."""
        part = self._body[self._at : self._at + length]
        if len(part) != length:
            raise ValueError("cut short")
        self._at += length
        return part


def _document_parts(document: Document) -> tuple[bytes, ...]:
    name = document.id.encode()
    metadata = json.dumps(dict(document.metadata)).encode() if document.metadata else b""
    lengths = (len(name), len(document.content), len(metadata))
    return (_DOCUMENT.pack(document.score, *lengths), name, document.content, metadata)


def _document(body: _Reader) -> Document:
    score, id_bytes, content_bytes, metadata_bytes = _DOCUMENT.unpack(body.take(_DOCUMENT.size))
    name = body.take(id_bytes).decode()
    content, packed = body.take(content_bytes), body.take(metadata_bytes)
    metadata = json.loads(packed) if packed else {}
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError("metadata of another form")
    return Document(name, score, content, metadata)
