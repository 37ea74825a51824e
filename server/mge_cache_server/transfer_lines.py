"""An entry as a line of an exported file: an answer, or (with a partition) a retrieval."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mge_cache_server import codec, rag_codec
from mge_cache_server.jsonl import FieldError, write_body, write_packed, write_real
from mge_cache_server.keys import CONTROL_CHARACTERS, document_tag, key_tag, model_tag
from mge_cache_server.model import Answer, Document, Entry, RagEntry, Retrieval, Usage

if TYPE_CHECKING:
    from mge_cache_server.jsonl import Line
    from mge_cache_server.model import AnyEntry

_DIGEST_BYTES = 32
_TOP_K_MAX = 100
_LENGTH_OFF_MAX = 1e-3
_USAGE = tuple(each.name for each in dataclasses.fields(Usage))
_COMMON = ("key", "expires_ms", "created_ms", "tags", "cost_usd", "compute_s")
_ANSWER = frozenset({*_COMMON, "model", "usage", "content_type", "answer", "answer_base64"})
_RETRIEVAL = frozenset(
    {
        *(*_COMMON, "partition", "embedding_model", "query", "embedding_base64", "top_k"),
        *("documents", "radius"),
    }
)
_DOCUMENT = frozenset({"id", "score", "content", "content_base64", "metadata", "embedding_base64"})


def decode(record: bytes) -> AnyEntry:
    """Read a record of either kind; raises RecordError."""
    if record[:1] == bytes([rag_codec.VERSION]):
        return rag_codec.decode(record)
    return codec.decode(record)


def encode(entry: AnyEntry) -> bytes:
    """Write an entry of either kind as a record."""
    return rag_codec.encode(entry) if isinstance(entry, RagEntry) else codec.encode(entry)


def members_of(digest: bytes, entry: AnyEntry, expires_s: float) -> dict[str, object]:
    """Return the members of the line of an entry that expires then (seconds since 1970)."""
    common = {
        "key": digest.hex(),
        "expires_ms": int(expires_s * 1000),
        "created_ms": entry.created_ms,
        "tags": entry.tags,
        "cost_usd": entry.answer.cost_usd,
        "compute_s": entry.answer.compute_s,
    }
    if isinstance(entry, RagEntry):
        return {**common, "partition": entry.partition.hex(), **_retrieval_members(entry.answer)}
    answer = entry.answer
    return {
        **common,
        "model": answer.model,
        "usage": dataclasses.asdict(answer.usage),
        "content_type": answer.content_type,
        **write_body("answer", answer.body),
    }


def _retrieval_members(found: Retrieval) -> dict[str, object]:
    count = len(found.documents)
    size = len(found.embeddings) // count if count else 0
    embeddings = [found.embeddings[place * size : (place + 1) * size] for place in range(count)]
    return {
        "embedding_model": found.embedding_model,
        "query": found.query,
        **write_packed("embedding", found.embedding),
        "top_k": found.top_k,
        "documents": [
            {
                "id": document.id,
                "score": write_real(document.score),
                **write_body("content", document.content),
                "metadata": dict(document.metadata),
                **(write_packed("embedding", embedding) if embedding else {}),
            }
            for document, embedding in zip(found.documents, embeddings, strict=True)
        ],
        "radius": found.radius,
    }


def read_entry(line: Line, tick: int) -> tuple[bytes, int, AnyEntry]:
    """Return key, end (ms since 1970) and entry, as begun at ``tick``. Raises FieldError."""
    digest = _digest(line, "key")
    tags = [_name("tags", tag) for tag in line.texts("tags")]
    expires_ms, created_ms = line.count("expires_ms"), line.count("created_ms")
    if "partition" not in line.members:
        line.only(_ANSWER)
        answer = _answer(line)
        all_tags = _once(key_tag(digest), model_tag(answer.model), *tags)
        return digest, expires_ms, Entry(answer, tick, created_ms, all_tags)
    line.only(_RETRIEVAL)
    found = _retrieval(line)
    documents = (document_tag(document.id) for document in found.documents)
    all_tags = _once(key_tag(digest), model_tag(found.embedding_model), *documents, *tags)
    partition = _digest(line, "partition")
    return digest, expires_ms, RagEntry(found, tick, created_ms, all_tags, partition)


def _answer(line: Line) -> Answer:
    return Answer(
        body=line.body("answer"),
        content_type=_name("content_type", line.text("content_type", "")),
        model=_name("model", line.text("model")),
        usage=Usage(**line.counts("usage", _USAGE)),
        cost_usd=line.amount("cost_usd") or 0.0,
        compute_s=line.amount("compute_s") or 0.0,
    )


def _retrieval(line: Line) -> Retrieval:
    embedding = line.packed("embedding")
    top_k = line.count("top_k")
    if not 1 <= top_k <= _TOP_K_MAX:
        raise FieldError("top_k", f"must be 1 to {_TOP_K_MAX}")
    documents: list[Document] = []
    embeddings: list[bytes] = []
    for place, each in enumerate(line.objects("documents")):
        try:
            each.only(_DOCUMENT)
            documents.append(_document(each))
            embeddings.append(each.packed("embedding", ""))
        except FieldError as error:
            raise FieldError(f"documents[{place}]", str(error)) from None
    kept = b"".join(embeddings) if all(embeddings) else b""
    _check_embeddings(embedding, embeddings, kept)
    return Retrieval(
        embedding_model=_name("embedding_model", line.text("embedding_model")),
        query=line.text("query", ""),
        embedding=embedding,
        top_k=top_k,
        documents=tuple(documents),
        embeddings=kept,
        radius=line.amount("radius"),
        cost_usd=line.amount("cost_usd") or 0.0,
        compute_s=line.amount("compute_s") or 0.0,
    )


def _document(line: Line) -> Document:
    metadata = line.object("metadata")
    if not all(isinstance(text, str) for text in metadata.values()):
        raise FieldError("metadata", "must have only texts")
    content = line.body("content") if line.members.get("content") != "" else b""
    return Document(_name("id", line.text("id")), line.real("score"), content, metadata)


def _check_embeddings(embedding: bytes, embeddings: list[bytes], kept: bytes) -> None:
    from mge_cache_server import rag_vectors  # noqa: PLC0415 - imports numpy

    if not embedding or len(embedding) % rag_codec.FLOAT_BYTES:
        raise FieldError("embedding_base64", "must be float32 numbers")
    dimension = len(embedding) // rag_codec.FLOAT_BYTES
    [row] = rag_vectors.matrix(embedding, dimension)
    if not abs(float(row @ row) - 1) <= _LENGTH_OFF_MAX:
        raise FieldError("embedding_base64", "must have unit length")
    if any(each and len(each) != len(embedding) for each in embeddings):
        raise FieldError("documents", "embeddings must have the query's dimension")
    if kept and not rag_vectors.have_direction(rag_vectors.matrix(kept, dimension)):
        raise FieldError("documents", "embeddings must be finite and not zero")


def _digest(line: Line, name: str) -> bytes:
    text = line.text(name)
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        raise FieldError(name, "must be 64 hexadecimal digits")
    return digest


def _once(*tags: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tags))


def _name(field: str, text: str) -> str:
    if CONTROL_CHARACTERS.search(text):
        raise FieldError(field, "must not contain control characters")
    return text
