"""Export and import of a namespace, straight from and to a store.

The file has a JSON object on each line: a header, an entry on each further line, and a last line
that tells how many there were, so that a file that was cut short is noticed. Entries end at a
moment (``expires_ms``), not after a time: however late the file is imported, none lives longer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mge_cache_server.codec import RecordError
from mge_cache_server.epochs import NamespaceEpochs
from mge_cache_server.errors import MgeError
from mge_cache_server.jsonl import BadLines, FieldError, read_lines
from mge_cache_server.keys import NAMESPACE_PATTERN, PARTITION_TAGS, key_tag
from mge_cache_server.model import EntryKey, RagEntry
from mge_cache_server.rag_codec import pack_row
from mge_cache_server.store import Row
from mge_cache_server.transfer_lines import decode, encode, members_of, read_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from mge_cache_server.jsonl import Line
    from mge_cache_server.model import AnyEntry
    from mge_cache_server.redis_store_vectors import RedisVectors
    from mge_cache_server.store import Store

FORMAT = "mge-cache/export"
VERSION = 1
_BATCH = 256
_AT_ONCE = 16


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
            entry = decode(record)
        except RecordError:
            report.unreadable += 1
            continue
        if not epochs.admits(entry.tick, (*entry.tags, key_tag(digest))):
            report.invalidated += 1
            continue
        write(_json(members_of(digest, entry, expires_s)))
        report.exported += 1


async def _read_epochs(store: Store, namespace: str) -> NamespaceEpochs:
    table = await store.read_epochs(namespace, -1)
    epochs = NamespaceEpochs()
    epochs.clock = table.clock
    epochs.epochs = dict(table.epochs)
    return epochs


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
    vectors: RedisVectors | None = None,
) -> ImportReport:
    """Store the entries of a file in the namespace that they come from, as begun now.

    What is there already stays; so a second run adds what the first could not. ``progress`` gets
    the bytes read. Retrievals become similar hits by ``vectors`` if there are some, else by rows.
    Raises TransferError for a file of another format or version, and StoreError.
    """
    report = ImportReport()
    lines = read_lines(file, line_max_bytes=line_max_bytes, bad=report.bad.add)
    report.namespace = _read_header(lines)
    epochs = await _read_epochs(store, report.namespace)
    target = _Import(store, report, epochs, ttl_max_s, now_s, vectors)
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
    vectors: RedisVectors | None

    async def take(self, line: Line) -> None:
        if line.members.get("end") is True:
            self.report.complete = True
            return
        try:
            digest, expires_ms, entry = read_entry(line, self.epochs.clock)
        except FieldError as error:
            self.report.bad.add(line.number, error)
            return
        key = EntryKey(self.report.namespace, digest)
        remaining_s = min(expires_ms / 1000 - self.now_s(), self.ttl_max_s)
        if remaining_s <= 0:
            self.report.expired += 1
            return
        present = await self._present(key)
        if present is None:
            await self.store.put(key, encode(entry), remaining_s)
            self.report.imported += 1
        else:
            entry, remaining_s = present
            self.report.present += 1
        if isinstance(entry, RagEntry):
            # Of one that is there too: whoever broke off the last run may have missed its row.
            await self._put_row(digest, entry, remaining_s)

    async def _present(self, key: EntryKey) -> tuple[AnyEntry, float] | None:
        found = await self.store.lookup(key)
        if found.record is None:
            return None
        try:
            entry = decode(found.record)
        except RecordError:
            return None
        valid = self.epochs.admits(entry.tick, (*entry.tags, key_tag(key.digest)))
        return (entry, found.remaining_s) if valid else None

    async def _put_row(self, digest: bytes, entry: RagEntry, remaining_s: float) -> None:
        partition = EntryKey(self.report.namespace, entry.partition)
        vector = entry.answer.embedding
        if self.vectors is None:
            row = Row(digest, pack_row(entry.tick, vector), remaining_s)
            await self.store.put_row(partition, row)
            return
        shared = [tag for tag in entry.tags if tag.startswith(PARTITION_TAGS)]
        floor = self.epochs.floor(shared)
        await self.vectors.put(
            partition, digest, vector, tick=entry.tick, floor=floor, ttl_s=remaining_s
        )
