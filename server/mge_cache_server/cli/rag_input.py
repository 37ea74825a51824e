"""The options that say which retrieval is meant, and the files that they name."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mge_cache_server.cli.failures import CommandError
from mge_cache_server.cli.sidecar import namespace_option, usage_errors
from mge_cache_server.jsonl import BadLines, FieldError, read_lines, write_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from mge_cache import RagDocument, RagQuery
    from mge_cache_server.jsonl import Line

_LINE_MAX_BYTES = 16 << 20
_MEMBERS = ("id", "score", "content", "content_base64", "metadata", "embedding")

_OPTIONS = (
    namespace_option,
    click.option("-m", "--model", required=True, help="The model that made the embedding."),
    click.option(
        "-e",
        "--embedding",
        type=click.File("rb", lazy=True),
        required=True,
        help="The query's embedding from a file, - for stdin: a JSON list or raw float32.",
    ),
    click.option("-c", "--collection", default="", help="What is searched."),
    click.option("--index-version", default="", help="The version of what is searched."),
    click.option(
        "--filter",
        "conditions",
        multiple=True,
        metavar="NAME=TEXT",
        help="A condition of the search; may be repeated.",
    ),
    click.argument("query", required=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RagIdentity:
    """The values of these options, as given."""

    namespace: str
    model: str
    embedding: BinaryIO
    collection: str
    index_version: str
    conditions: tuple[str, ...]
    query: str | None


def rag_identity_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; they reach it as its argument ``identity``."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        names = [field.name for field in dataclasses.fields(RagIdentity)]
        identity = RagIdentity(**{name: values.pop(name) for name in names})
        function(identity=identity, **values)

    for decorate in reversed(_OPTIONS):
        decorate(command)
    return command


def read_query(identity: RagIdentity) -> RagQuery:
    """Make the query that the options describe; mistakes are wrong usage."""
    from mge_cache import RagQuery  # noqa: PLC0415 (not for `serve`)

    conditions = dict(_condition(text) for text in identity.conditions)
    embedding = _read_embedding(identity.embedding.read())
    with usage_errors():
        return RagQuery(
            embedding_model=identity.model,
            embedding=embedding,
            query=identity.query or "",
            collection=identity.collection,
            index_version=identity.index_version,
            filter=conditions,
            namespace=identity.namespace,
        )


def read_documents(file: BinaryIO) -> list[RagDocument]:
    """Read a document from each line; if a line is bad, none is used, and the command ends."""
    bad = BadLines()
    documents = []
    for line in read_lines(file, line_max_bytes=_LINE_MAX_BYTES, bad=bad.add):
        try:
            documents.append(_document(line))
        except FieldError as error:
            bad.add(line.number, error)
    if bad.count:
        raise CommandError(f"nothing stored: the documents have bad lines\n{bad.report()}")
    return documents


def write_document(document: RagDocument) -> dict[str, object]:
    """Return what ``read_documents`` reads, without the embedding."""
    return {
        "id": document.id,
        "score": document.score,
        **(write_body("content", document.content) if document.content else {}),
        **({"metadata": dict(document.metadata)} if document.metadata else {}),
    }


def _read_embedding(content: bytes) -> bytes | list[Any]:
    """Tell a JSON list, which is text that begins with a bracket, from raw float32."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        return content
    if not text.startswith("["):
        return content
    try:
        numbers = json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError("--embedding is neither a JSON list nor raw float32") from None
    return numbers if isinstance(numbers, list) else []


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError("--filter is written NAME=TEXT")
    return name, value


def _document(line: Line) -> RagDocument:
    from mge_cache import InvalidRequestError, RagDocument  # noqa: PLC0415

    line.only(_MEMBERS)
    has_content = "content" in line.members or "content_base64" in line.members
    embedding = line.members.get("embedding")
    if embedding is not None and not isinstance(embedding, list):
        raise FieldError("embedding", "must be a list of numbers")
    try:
        return RagDocument(
            line.text("id"),
            line.body("content") if has_content and line.members.get("content") != "" else b"",
            score=_score(line.members.get("score", 0)),
            metadata=line.object("metadata"),
            embedding=embedding,
        )
    except InvalidRequestError as error:
        raise FieldError(error.field, error.problem) from None


def _score(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FieldError("score", "must be a finite number")
    return float(value)
