"""Entries as stored bytes.

A record is a header of 28 bytes (version, a zero, number of tags, CRC-32 of everything else, tick,
time of creation in ms, length of the texts), then usage (4 x int64), cost in USD and compute time
in s (2 x float64), then the texts (model, content type and tags, none of which has a line end, with
a line end between them), then the answer up to the end. All numbers are big-endian. Decoding checks
lengths and the CRC, and executes nothing.
"""

from __future__ import annotations

import struct
import sys
import zlib

from mge_cache_server.errors import MgeError
from mge_cache_server.model import Answer, Entry, Usage

HEADER_BYTES = 28
"""The header tells one record of a key from every other: it holds CRC, tick and time."""

_VERSION = 1
_HEADER = struct.Struct(">BBHIQQI")
_FIGURES = struct.Struct(">4q2d")


class RecordError(MgeError):
    """The bytes are not a record of this version: damaged, or written by a newer sidecar."""


def encode(entry: Entry) -> bytes:
    """Write an entry as a record; raises ValueError for a text with a line end."""
    answer = entry.answer
    usage = answer.usage
    figures = _FIGURES.pack(
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        answer.cost_usd,
        answer.compute_s,
    )
    joined = "\n".join((answer.model, answer.content_type, *entry.tags))
    count = len(entry.tags)
    if joined.count("\n") != 1 + count:
        raise ValueError("a model, content type or tag has a line end")
    texts = joined.encode()
    length = len(texts)
    body = b"".join((figures, texts, answer.body))
    blank = _HEADER.pack(_VERSION, 0, count, 0, entry.tick, entry.created_ms, length)
    crc = zlib.crc32(body, zlib.crc32(blank))
    return _HEADER.pack(_VERSION, 0, count, crc, entry.tick, entry.created_ms, length) + body


def decode(record: bytes) -> Entry:
    """Read a record; raises RecordError where it is damaged or of another version."""
    if not record or record[0] != _VERSION:
        version = record[0] if record else None
        raise RecordError(f"version {version}, expected {_VERSION}")
    if len(record) < HEADER_BYTES + _FIGURES.size:
        raise RecordError("cut short")
    version, zero, count, crc, tick, created_ms, length = _HEADER.unpack_from(record)
    blank = _HEADER.pack(version, zero, count, 0, tick, created_ms, length)
    view = memoryview(record)
    if crc != zlib.crc32(view[HEADER_BYTES:], zlib.crc32(blank)):
        raise RecordError("checksum does not match")
    start = HEADER_BYTES + _FIGURES.size
    if start + length > len(record):
        raise RecordError("malformed texts")
    # Entries share their models and tags: one string of each is enough.
    texts = [sys.intern(text) for text in _texts(view[start : start + length])]
    if len(texts) != 2 + count:
        # Whoever may write to the store can compute a checksum.
        raise RecordError("malformed texts")
    figures = _FIGURES.unpack_from(record, HEADER_BYTES)
    answer = Answer(
        body=record[start + length :],
        content_type=texts[1],
        model=texts[0],
        usage=Usage(*figures[:4]),
        cost_usd=figures[4],
        compute_s=figures[5],
    )
    return Entry(answer=answer, tick=tick, created_ms=created_ms, tags=tuple(texts[2:]))


def _texts(view: memoryview) -> list[str]:
    try:
        return str(view, "utf-8").split("\n")
    except UnicodeDecodeError:
        # Not `from exc`: that error holds the bytes.
        raise RecordError("malformed texts") from None
