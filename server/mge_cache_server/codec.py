"""Entries as stored bytes.

A record is a header of 28 bytes (version, a zero, number of tags, CRC-32 of everything else, tick,
time of creation in ms, length of the texts), then figures, then the texts (two and the tags, none
of which has a line end, with a line end between them), then the body up to the end. All numbers are
big-endian. Decoding checks lengths and the CRC, and executes nothing.

Version 1 is an answer: its figures are usage (4 x int64), cost in USD and compute time in s
(2 x float64), its texts model and content type, its body the answer. Version 2 is a retrieval:
``rag_codec`` knows its form.
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass

from mge_cache_server.errors import MgeError
from mge_cache_server.model import Answer, Entry, Usage

HEADER_BYTES = 28
"""The header tells one record of a key from every other: it holds CRC, tick and time."""

_VERSION = 1
_HEADER = struct.Struct(">BBHIQQI")
_FIGURES = struct.Struct(">4q2d")


class RecordError(MgeError):
    """The bytes are not a record of this version: damaged, or written by a newer sidecar."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What records of all versions are made of. ``texts`` are two, then come the ``tags``."""

    tick: int
    created_ms: int
    figures: bytes
    texts: tuple[str, str]
    tags: tuple[str, ...]
    body: bytes


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
    texts = (answer.model, answer.content_type)
    return join(
        _VERSION, Parts(entry.tick, entry.created_ms, figures, texts, entry.tags, answer.body)
    )


def decode(record: bytes) -> Entry:
    """Read a record; raises RecordError where it is damaged or of another version."""
    parts = split(_VERSION, _FIGURES.size, record)
    figures = _FIGURES.unpack(parts.figures)
    answer = Answer(
        body=parts.body,
        content_type=parts.texts[1],
        model=parts.texts[0],
        usage=Usage(*figures[:4]),
        cost_usd=figures[4],
        compute_s=figures[5],
    )
    return Entry(answer=answer, tick=parts.tick, created_ms=parts.created_ms, tags=parts.tags)


def join(version: int, parts: Parts) -> bytes:
    """Write a record; raises ValueError for a text with a line end."""
    joined = "\n".join((*parts.texts, *parts.tags))
    count = len(parts.tags)
    if joined.count("\n") != 1 + count:
        raise ValueError("a text or tag has a line end")
    texts = joined.encode()
    length = len(texts)
    body = b"".join((parts.figures, texts, parts.body))
    blank = _HEADER.pack(version, 0, count, 0, parts.tick, parts.created_ms, length)
    crc = zlib.crc32(body, zlib.crc32(blank))
    return _HEADER.pack(version, 0, count, crc, parts.tick, parts.created_ms, length) + body


def split(expected: int, figures_bytes: int, record: bytes) -> Parts:
    """Take a record of the expected version apart; raises RecordError where it is damaged."""
    if not record or record[0] != expected:
        version = record[0] if record else None
        raise RecordError(f"version {version}, expected {expected}")
    start = HEADER_BYTES + figures_bytes
    if len(record) < start:
        raise RecordError("cut short")
    version, zero, count, crc, tick, created_ms, length = _HEADER.unpack_from(record)
    blank = _HEADER.pack(version, zero, count, 0, tick, created_ms, length)
    view = memoryview(record)
    if crc != zlib.crc32(view[HEADER_BYTES:], zlib.crc32(blank)):
        raise RecordError("checksum does not match")
    if start + length > len(record):
        raise RecordError("malformed texts")
    # Entries share their models and tags: one string of each is enough.
    texts = [sys.intern(text) for text in _texts(view[start : start + length])]
    if len(texts) != 2 + count:
        # Whoever may write to the store can compute a checksum.
        raise RecordError("malformed texts")
    figures, body = record[HEADER_BYTES:start], record[start + length :]
    return Parts(tick, created_ms, figures, (texts[0], texts[1]), tuple(texts[2:]), body)


def _texts(view: memoryview) -> list[str]:
    try:
        return str(view, "utf-8").split("\n")
    except UnicodeDecodeError:
        # Not `from exc`: that error holds the bytes.
        raise RecordError("malformed texts") from None
