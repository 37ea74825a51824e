"""Export and import of a namespace, straight from and to a store.

The file has a JSON object on each line: a header, an entry on each further line, and a last line
that tells how many there were, so that a file that was cut short is noticed. Entries end at a
moment (``expires_ms``), not after a time: however late the file is imported, none lives longer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache_server import codec
from mge_cache_server.epochs import NamespaceEpochs
from mge_cache_server.errors import MgeError
from mge_cache_server.jsonl import BadLines, FieldError, read_lines, write_body
from mge_cache_server.keys import CONTROL_CHARACTERS, NAMESPACE_PATTERN, key_tag, model_tag
from mge_cache_server.model import Answer, Entry, EntryKey, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from mge_cache_server.jsonl import Line
    from mge_cache_server.store import Store

FORMAT = "mge-cache/export"
VERSION = 1
_BATCH = 256
_AT_ONCE = 16
_USAGE = tuple(each.name for each in dataclasses.fields(Usage))
_MEMBERS = frozenset(
    {
        *("key", "expires_ms", "created_ms", "tags", "model", "usage", "cost_usd", "compute_s"),
        *("content_type", "answer", "answer_base64"),
    }
)


class TransferError(MgeError):
    """The file is not an export that this version can import."""


@dataclass(slots=True)
class ExportReport:
    """How many entries were written, were invalidated, or could not be read."""

    exported: int = 0
    invalidated: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class ImportReport:
    """What became of the entries of a file.

    ``present`` were in the store already, ``expired`` have ended since the export. ``complete``:
    the file has its last line.
    """

    namespace: str = ""
    imported: int = 0
    present: int = 0
    expired: int = 0
    complete: bool = False
    bad: BadLines = field(default_factory=BadLines)


async def export_namespace(
    store: Store,
    namespace: str,
    *,
    write: Callable[[str], object],
    now_s: Callable[[], float],
    progress: Callable[[ExportReport], None],
) -> ExportReport:
    """Write every valid entry. ``now_s`` is the time since 1970. Raises StoreError.

    What was invalidated before the export began is not in it; what is invalidated meanwhile may be.
    """
    report = ExportReport()
    write(_json({"format": FORMAT, "version": VERSION, "namespace": namespace}))
    batch: list[tuple[bytes, bytes, float]] = []
    async for digest, record, remaining_s in store.scan(namespace):
        batch.append((digest, record, now_s() + remaining_s))
        if len(batch) == _BATCH:
            await _export_batch(store, namespace, batch, report, write)
            batch.clear()
            progress(report)
    await _export_batch(store, namespace, batch, report, write)
    write(_json({"end": True, "entries": report.exported}))
    progress(report)
    return report


async def _export_batch(
    store: Store,
    namespace: str,
    batch: list[tuple[bytes, bytes, float]],
    report: ExportReport,
    write: Callable[[str], object],
) -> None:
    epochs = await _read_epochs(store, namespace)  # after the records: it knows what ended them
    for digest, record, expires_s in batch:
        try:
            entry = codec.decode(record)
        except codec.RecordError:
            report.unreadable += 1
            continue
        if not epochs.admits(entry.tick, (*entry.tags, key_tag(digest))):
            report.invalidated += 1
            continue
        write(_json(_members(digest, entry, expires_s)))
        report.exported += 1


async def _read_epochs(store: Store, namespace: str) -> NamespaceEpochs:
    table = await store.read_epochs(namespace, -1)
    epochs = NamespaceEpochs()
    epochs.clock = table.clock
    epochs.epochs = dict(table.epochs)
    return epochs


def _members(digest: bytes, entry: Entry, expires_s: float) -> dict[str, object]:
    answer = entry.answer
    return {
        "key": digest.hex(),
        "expires_ms": int(expires_s * 1000),
        "created_ms": entry.created_ms,
        "tags": entry.tags,
        "model": answer.model,
        "usage": dataclasses.asdict(answer.usage),
        "cost_usd": answer.cost_usd,
        "compute_s": answer.compute_s,
        "content_type": answer.content_type,
        **write_body("answer", answer.body),
    }


def _json(members: dict[str, object]) -> str:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")) + "\n"


async def import_namespace(
    store: Store,
    file: BinaryIO,
    *,
    ttl_max_s: float,
    line_max_bytes: int,
    now_s: Callable[[], float],
    progress: Callable[[ImportReport, int], None],
) -> ImportReport:
    """Store the entries of a file in the namespace that they come from, as begun now.

    What is there already stays; so a second run adds what the first could not. ``progress`` gets
    the bytes read. Raises TransferError for a file of another format or version, and StoreError.
    """
    report = ImportReport()
    lines = read_lines(file, line_max_bytes=line_max_bytes, bad=report.bad.add)
    report.namespace = _read_header(lines)
    epochs = await _read_epochs(store, report.namespace)
    target = _Import(store, report, epochs, ttl_max_s, now_s)
    while batch := list(itertools.islice(lines, _AT_ONCE)):
        if report.complete:
            report.bad.add(batch[0].number, FieldError("", "something follows the last line"))
            break
        await asyncio.gather(*(target.take(line) for line in batch))
        progress(report, batch[-1].end)
    return report


def _read_header(lines: Iterator[Line]) -> str:
    header = next(lines, None)
    if header is None or header.members.get("format") != FORMAT:
        raise TransferError("not a file that mge-cache export wrote")
    if header.members.get("version") != VERSION:
        raise TransferError(f"written in another version of the format than {VERSION}")
    namespace = header.members.get("namespace")
    if not isinstance(namespace, str) or not NAMESPACE_PATTERN.fullmatch(namespace):
        raise TransferError("the header names no namespace")
    return namespace


@dataclass(frozen=True, slots=True)
class _Import:
    store: Store
    report: ImportReport
    epochs: NamespaceEpochs
    ttl_max_s: float
    now_s: Callable[[], float]

    async def take(self, line: Line) -> None:
        if line.members.get("end") is True:
            self.report.complete = True
            return
        try:
            key, expires_ms, entry = self._parse(line)
        except FieldError as error:
            self.report.bad.add(line.number, error)
            return
        remaining_s = min(expires_ms / 1000 - self.now_s(), self.ttl_max_s)
        if remaining_s <= 0:
            self.report.expired += 1
        elif await self._is_present(key):
            self.report.present += 1
        else:
            await self.store.put(key, codec.encode(entry), remaining_s)
            self.report.imported += 1

    async def _is_present(self, key: EntryKey) -> bool:
        found = await self.store.lookup(key)
        if found.record is None:
            return False
        try:
            entry = codec.decode(found.record)
        except codec.RecordError:
            return False
        return self.epochs.admits(entry.tick, (*entry.tags, key_tag(key.digest)))

    def _parse(self, line: Line) -> tuple[EntryKey, int, Entry]:
        line.only(_MEMBERS)
        try:
            digest = bytes.fromhex(line.text("key"))
        except ValueError:
            digest = b""
        if len(digest) != 32:  # noqa: PLR2004 (of a SHA-256)
            raise FieldError("key", "must be 64 hexadecimal digits")
        answer = Answer(
            body=line.body("answer"),
            content_type=_name("content_type", line.text("content_type", "")),
            model=_name("model", line.text("model")),
            usage=Usage(**line.counts("usage", _USAGE)),
            cost_usd=line.amount("cost_usd") or 0.0,
            compute_s=line.amount("compute_s") or 0.0,
        )
        tags = (_name("tags", tag) for tag in line.texts("tags"))
        entry = Entry(
            answer=answer,
            tick=self.epochs.clock,
            created_ms=line.count("created_ms"),
            tags=tuple(dict.fromkeys((key_tag(digest), model_tag(answer.model), *tags))),
        )
        return EntryKey(self.report.namespace, digest), line.count("expires_ms"), entry


def _name(field: str, text: str) -> str:
    if CONTROL_CHARACTERS.search(text):
        raise FieldError(field, "must not contain control characters")
    return text
