"""Documents of any shape as the contract's documents, and back.

The content of a stored document is ``mge-document/1``, a line feed, and the document as JSON (see
``_shapes``): with its id, score and metadata, so that it comes back as it was.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mge_cache import _shapes
from mge_cache._embedding import embedding_bytes
from mge_cache._rag_types import RagDocument, RagHit
from mge_cache._shape_errors import UnfaithfulError, UnreadableError
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCUMENTS_MAX = 1000
SIZE_MAX_BYTES = 8 * 1024 * 1024

_SCHEMA = b"mge-document/1\n"
_ID_BYTES_MAX = 256
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PAIR = 2


class NotStoredError(Exception):
    """What was retrieved can be returned and not stored; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadHit(RagHit):
    """A hit and the documents that the application knows."""

    values: tuple[Any, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentShape:
    """How documents are taken apart. Where a callable is missing, fields or items are looked at.

    ``id_of``: else ``id``, else a hash of the content. ``embedding_of``: else ``embedding``.
    ``with_score``: makes a document with another score, for re-ranked hits. ``types``: classes that
    cannot be found by their names.
    """

    id_of: Callable[[Any], object] | None = None
    embedding_of: Callable[[Any], Any] | None = None
    with_score: Callable[[Any, float], Any] | None = None
    types: Sequence[type] = ()
    rerank: bool = True

    def documents(self, found: Sequence[Any], *, top_k: int, dimension_bytes: int) -> _Documents:
        """Write what was found, best first. Raises NotStoredError for what cannot be stored.

        Over-fetched documents are left out where they cannot help or do not fit.
        """
        vectors = self._vectors(found, dimension_bytes)
        wanted = found if all(vectors) else found[:top_k]
        try:
            documents = tuple(
                self._document(value, vector)
                for value, vector in zip(wanted[:DOCUMENTS_MAX], vectors, strict=False)
            )
        except UnfaithfulError:
            raise NotStoredError("document") from None
        for count in (len(documents), top_k):
            if sum(_size_bytes(document) for document in documents[:count]) <= SIZE_MAX_BYTES:
                return documents[:count]
        raise NotStoredError("size")

    def read(self, hit: RagHit) -> ReadHit:
        """Read what was stored. Raises UnreadableError if it was not stored by ``documents``."""
        values = [self._value(document) for document in hit.documents]
        if hit.reranked and self.with_score is not None:
            pairs = zip(values, hit.documents, strict=True)
            values = [self.with_score(value, document.score) for value, document in pairs]
        known = {each.name: getattr(hit, each.name) for each in fields(hit)}
        return ReadHit(**known, values=tuple(values))

    def _vectors(self, found: Sequence[Any], dimension_bytes: int) -> list[bytes]:
        """Return the embeddings; all are empty if one is missing, or of another dimension."""
        vectors = []
        for value in found if self.rerank else ():
            vector = self._vector(value)
            if len(vector) != dimension_bytes:
                break
            vectors.append(vector)
        return vectors if len(vectors) == len(found) else [b""] * len(found)

    def _vector(self, value: Any) -> bytes:
        if self.embedding_of is not None:
            embedding = self.embedding_of(value)
        else:
            embedding = _part(_subject(value)[0], "embedding")
        if embedding is None:
            return b""
        try:
            return embedding_bytes("embedding", embedding)
        except InvalidRequestError:
            return b""

    def _document(self, value: Any, vector: bytes) -> RagDocument:
        subject, score = _subject(value)
        content = _shapes.to_json(value, types=self.types)
        given = _part(subject, "id") if self.id_of is None else self.id_of(value)
        return RagDocument(
            _usable_id(given) or hashlib.sha256(content).hexdigest(),
            _SCHEMA + content,
            score=_number(_part(subject, "score") if score is None else score),
            embedding=vector or None,
        )

    def _value(self, document: RagDocument) -> Any:
        if not document.content.startswith(_SCHEMA):
            raise UnreadableError("not readable: it was stored by something else")
        return _shapes.of_json(document.content[len(_SCHEMA) :], types=self.types)


_Documents = tuple[RagDocument, ...]


def _subject(value: Any) -> tuple[Any, object]:
    """Tell a document from its score, where they are a pair."""
    if type(value) is tuple and len(value) == _PAIR and not isinstance(value[0], int | float):
        document, score = value
        return document, score
    return value, None


def _part(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    return getattr(value, name, None)


def _usable_id(given: object) -> str:
    """Return the id if the contract allows it, else "". Only texts, numbers and UUIDs are ids."""
    if not isinstance(given, str | int | UUID):
        return ""
    name = str(given)
    try:
        short = len(name.encode()) <= _ID_BYTES_MAX
    except UnicodeEncodeError:
        return ""
    return name if short and not _CONTROLS.search(name) else ""


def _number(score: object) -> float:
    try:
        number = float(score)  # type: ignore[arg-type] # whatever it is
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _size_bytes(document: RagDocument) -> int:
    return len(document.id.encode()) + len(document.content) + len(document.vector)
