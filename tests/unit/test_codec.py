"""Records: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.codec import HEADER_BYTES, RecordError, decode, encode
from mge_cache_server.model import Answer, Entry, Usage
from tests.strategies import entries
from tests.unit.scene import make_answer, make_entry

EXAMPLE = Entry(
    Answer(b"body\0\xff", "text/plain", "model-1", Usage(1, 2, 3, 4), 0.25, 1.5),
    tick=1_800_000_000_000_000,
    created_ms=1_800_000_000_123,
    tags=("key:00", "model:model-1", "tag:\u00e4"),
)


@given(entry=entries)
def test_what_is_written_is_read_back(entry: Entry) -> None:
    assert decode(encode(entry)) == entry


def test_the_form_of_a_record_is_fixed() -> None:
    # Records outlive a sidecar: what version 1 wrote, every later one must read or refuse.
    record = encode(EXAMPLE)
    assert record[:4] == b"\x01\x00\x00\x03"
    texts = "model-1\ntext/plain\nkey:00\nmodel:model-1\ntag:ä".encode()
    assert struct.unpack(">QQI", record[8:HEADER_BYTES]) == (
        EXAMPLE.tick,
        EXAMPLE.created_ms,
        len(texts),
    )
    assert record[HEADER_BYTES : HEADER_BYTES + 48] == struct.pack(">4q2d", 1, 2, 3, 4, 0.25, 1.5)
    assert record[HEADER_BYTES + 48 :] == texts + b"body\0\xff"


def test_a_line_end_in_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="line end"):
        encode(replace(EXAMPLE, tags=("tag:one\ntag:two",)))


def test_the_damage_of_any_byte_is_noticed() -> None:
    record = encode(EXAMPLE)
    for position in range(len(record)):
        for flipped in (0x01, 0x80, 0xFF):
            damaged = bytearray(record)
            damaged[position] ^= flipped
            with pytest.raises(RecordError):
                decode(bytes(damaged))


@given(entry=entries, data=st.data())
def test_any_damage_of_any_record_is_noticed(entry: Entry, data: st.DataObject) -> None:
    record = encode(entry)
    position = data.draw(st.integers(0, len(record) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != record[position]))
    with pytest.raises(RecordError):
        decode(record[:position] + bytes([byte]) + record[position + 1 :])


def test_a_record_that_was_cut_short_is_refused() -> None:
    record = encode(EXAMPLE)
    for length in range(len(record)):
        with pytest.raises(RecordError):
            decode(record[:length])


@given(entry=entries, more=st.binary(min_size=1, max_size=8))
def test_a_record_with_more_behind_it_is_refused(entry: Entry, more: bytes) -> None:
    with pytest.raises(RecordError):
        decode(encode(entry) + more)


@given(noise=st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RecordError):
        decode(noise)


def test_a_newer_version_is_refused_by_its_number() -> None:
    record = bytes([2]) + encode(EXAMPLE)[1:]
    with pytest.raises(RecordError, match="version 2, expected 1"):
        decode(record)


@given(body=st.binary(max_size=80), count=st.integers(0, 5), length=st.integers(0, 100))
def test_nonsense_with_a_right_checksum_is_refused_or_read(
    body: bytes, count: int, length: int
) -> None:
    # Whoever writes to the store can compute a checksum; no other error may come of it.
    figures = bytes(48)
    head = struct.pack(">BxHIQQI", 1, count, 0, 5, 6, length)
    crc = zlib.crc32(figures + body, zlib.crc32(head))
    record = struct.pack(">BxHIQQI", 1, count, crc, 5, 6, length) + figures + body
    try:
        entry = decode(record)
    except RecordError:
        return
    assert encode(entry) == record


def test_the_header_tells_two_records_of_a_key_apart() -> None:
    first = encode(make_entry(b"one"))[:HEADER_BYTES]
    assert first != encode(make_entry(b"two"))[:HEADER_BYTES]
    assert first != encode(make_entry(b"one", tick=2))[:HEADER_BYTES]
    later = Entry(make_answer(b"one"), 1, 1, ())
    assert first != encode(later)[:HEADER_BYTES]


def test_an_error_shows_nothing_of_the_answer() -> None:
    record = bytearray(encode(make_entry(b"secret words")))
    record[-1] ^= 1
    with pytest.raises(RecordError) as failure:
        decode(bytes(record))
    assert "secret" not in repr(failure.value)
