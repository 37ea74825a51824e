"""Retrievals as records: what comes back, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server import codec, rag_codec
from mge_cache_server.codec import RecordError
from mge_cache_server.model import Document, RagEntry, Retrieval
from tests.strategies import entries, labels, unicode_text

documents = st.builds(
    Document,
    id=labels,
    score=st.floats(allow_nan=False),
    content=st.binary(max_size=32),
    metadata=st.dictionaries(unicode_text, unicode_text, max_size=3),
)


@st.composite
def rag_entries(draw: st.DrawFn) -> RagEntry:
    vector_bytes = 4 * draw(st.integers(1, 8))
    found = tuple(draw(st.lists(documents, max_size=4)))
    embedded = draw(st.booleans())
    answer = Retrieval(
        embedding_model=draw(labels),
        query=draw(unicode_text),
        embedding=draw(st.binary(min_size=vector_bytes, max_size=vector_bytes)),
        top_k=draw(st.integers(1, 100)),
        documents=found,
        embeddings=bytes(len(found) * vector_bytes) if embedded else b"",
        radius=draw(st.none() | st.floats(0, 2)),
        cost_usd=draw(st.floats(0, 1e6)),
        compute_s=draw(st.floats(0, 1e6)),
    )
    tags = tuple(draw(st.lists(labels, max_size=4)))
    tick, created_ms = draw(st.integers(0, 2**53)), draw(st.integers(0, 2**53))
    return RagEntry(answer, tick, created_ms, tags, draw(st.binary(min_size=32, max_size=32)))


@given(rag_entries())
def test_an_entry_comes_back_as_it_was(entry: RagEntry) -> None:
    assert rag_codec.decode(rag_codec.encode(entry)) == entry


@given(rag_entries(), st.data())
def test_a_damaged_record_is_refused(entry: RagEntry, data: st.DataObject) -> None:
    record = rag_codec.encode(entry)
    cut = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(RecordError):
        rag_codec.decode(record[:cut])
    flipped = bytearray(record)
    flipped[cut] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RecordError):
        rag_codec.decode(bytes(flipped))


@given(rag_entries(), entries)
def test_the_caches_do_not_read_each_others_records(entry: RagEntry, other: object) -> None:
    with pytest.raises(RecordError):
        codec.decode(rag_codec.encode(entry))
    with pytest.raises(RecordError):
        rag_codec.decode(codec.encode(other))  # type: ignore[arg-type] # of entries


def test_a_row_of_another_length_is_refused() -> None:
    row = rag_codec.pack_row(7, bytes(16))
    tick, embedding = rag_codec.unpack_row(row, 4)
    assert (tick, bytes(embedding)) == (7, bytes(16))
    with pytest.raises(RecordError):
        rag_codec.unpack_row(row, 5)


@given(rag_entries())
def test_a_line_end_in_a_tag_is_not_written(entry: RagEntry) -> None:
    with pytest.raises(ValueError, match="line end"):
        rag_codec.encode(dataclasses.replace(entry, tags=("a\nb",)))
