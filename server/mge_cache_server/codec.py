"""Entries as stored bytes.

A record is a header of 24 bytes (version, a zero, number of tags, CRC-32 of everything else, tick,
time of creation in ms), then usage (4 x int64), cost in USD and compute time in s (2 x float64), then the
model, the content type and each tag with a 32-bit length before it, then the answer up to the end.
All numbers are big-endian. Decoding checks lengths and the CRC, and executes nothing.
"""

from __future__ import annotations

import struct
import sys
import zlib

from mge_cache_server.errors import MgeError
from mge_cache_server.model import Answer, Entry, Usage

HEADER_BYTES = 24
"""The header tells one record of a key from every other: it holds CRC, tick and time."""

_VERSION = 1
_HEADER = struct.Struct(">BBHIQQ")
_FIGURES = struct.Struct(">4q2d")
_LENGTH = struct.Struct(">I")


class RecordError(MgeError):
    """The bytes are not a record of this version: damaged, or written by a newer sidecar."""


def encode(entry: Entry) -> bytes:
    """Write an entry as a record."""
    answer = entry.answer
    usage = answer.usage
    parts = [
        _FIGURES.pack(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            answer.cost_usd,
            answer.compute_s,
        )
    ]
    for text in (answer.model, answer.content_type, *entry.tags):
        encoded = text.encode()
        parts.append(_LENGTH.pack(len(encoded)))
        parts.append(encoded)
    parts.append(answer.body)
    body = b"".join(parts)
    count = len(entry.tags)
    crc = zlib.crc32(
        body, zlib.crc32(_HEADER.pack(_VERSION, 0, count, 0, entry.tick, entry.created_ms))
    )
    return _HEADER.pack(_VERSION, 0, count, crc, entry.tick, entry.created_ms) + body


def decode(record: bytes) -> Entry:
    """Read a record; raises RecordError where it is damaged or of another version."""
    if not record or record[0] != _VERSION:
        version = record[0] if record else None
        raise RecordError(f"version {version}, expected {_VERSION}")
    if len(record) < HEADER_BYTES + _FIGURES.size:
        raise RecordError("cut short")
    version, zero, count, crc, tick, created_ms = _HEADER.unpack_from(record)
    view = memoryview(record)[HEADER_BYTES:]
    if crc != zlib.crc32(view, zlib.crc32(_HEADER.pack(version, zero, count, 0, tick, created_ms))):
        raise RecordError("checksum does not match")
    figures = _FIGURES.unpack_from(view)
    try:
        texts, offset = _read_texts(view, _FIGURES.size, 2 + count)
    except (struct.error, UnicodeDecodeError) as exc:
        # Whoever may write to the store can compute a checksum. The text of `exc` may hold bytes.
        raise RecordError(f"malformed: {type(exc).__name__}") from None
    model, content_type, *tags = texts
    answer = Answer(
        body=bytes(view[offset:]),
        content_type=content_type,
        model=model,
        usage=Usage(*figures[:4]),
        cost_usd=figures[4],
        compute_s=figures[5],
    )
    return Entry(answer=answer, tick=tick, created_ms=created_ms, tags=tuple(tags))


def _read_texts(view: memoryview, offset: int, count: int) -> tuple[list[str], int]:
    texts: list[str] = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(view, offset)
        offset += _LENGTH.size
        if length > len(view) - offset:
            raise RecordError("cut short")
        # Entries share their models and tags: one string of each is enough.
        texts.append(sys.intern(str(view[offset : offset + length], "utf-8")))
        offset += length
    return texts, offset
