"""Deferred batches and tickets as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server import errors
from mge_cache_server.codec import RecordError
from mge_cache_server.deferred_codec import (
    BatchRecord,
    Item,
    Ticket,
    TicketState,
    decode_batch,
    decode_ticket,
    encode_batch,
    encode_ticket,
    failure_of,
    ticket_key,
)
from mge_cache_server.generation import CacheUse
from mge_cache_server.model import EntryKey

if TYPE_CHECKING:
    from mge_cache_server.errors import AskError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DIGESTS = st.binary(min_size=32, max_size=32)
ITEMS = st.builds(
    Item,
    custom_id=TEXTS,
    key=st.builds(EntryKey, TEXTS, DIGESTS),
    model=TEXTS,
    tags=st.lists(TEXTS, max_size=3).map(tuple),
    ttl_s=st.floats(0, 1e6),
    cache=st.sampled_from(CacheUse),
    kept=st.booleans(),
    token=st.binary(max_size=16),
    tick=st.integers(0, 2**53),
    ids=st.lists(TEXTS, max_size=3).map(tuple),
)
TICKET = Ticket(bytes(32), "n", refresh=False)


@given(st.builds(BatchRecord, st.integers(0, 2**50), st.lists(ITEMS, max_size=3).map(tuple)))
def test_a_batch_is_read_as_it_was_written(record: BatchRecord) -> None:
    assert decode_batch(encode_batch(record)) == record


@given(st.builds(Ticket, DIGESTS, TEXTS, st.booleans(), st.sampled_from([*TicketState][:2])))
def test_a_ticket_is_read_as_it_was_written(ticket: Ticket) -> None:
    assert decode_ticket(encode_ticket(ticket)) == ticket


@pytest.mark.parametrize(
    "error",
    [
        errors.RateLimitedError("a"),
        errors.UpstreamRefusedError("b"),
        errors.NoKeyError("c"),
        errors.UnknownRequestError("d"),
        errors.DefectError("e"),
        errors.UpstreamUnavailableError("f"),
    ],
)
def test_a_failure_keeps_its_kind_and_text(error: AskError) -> None:
    failure, problem = failure_of(error)
    ticket = Ticket(bytes(32), "n", False, TicketState.FAILED, failure, problem)  # noqa: FBT003
    again = decode_ticket(encode_ticket(ticket)).error()
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x02{}",
        b"\x01",
        b"\x01[]",
        b"\x01{}",
        b"\x01null",
        b"\x01\xff",
        b"\x01" + b"[" * 100_000,
        encode_ticket(TICKET)[:-1],
        encode_ticket(TICKET).replace(b"pending", b"sending"),
        encode_ticket(TICKET).replace(b"pending", b"failed"),
        b'\x01{"created_ms":1,"items":[{}]}',
        b'\x01{"created_ms":1,"items":1}',
    ],
)
def test_what_is_damaged_is_refused(stored: bytes) -> None:
    for decode in (decode_batch, decode_ticket):
        with pytest.raises(RecordError):
            decode(stored)


def test_a_tickets_key_is_of_its_namespace_and_id() -> None:
    keys = {ticket_key("n", "a"), ticket_key("n", "b"), ticket_key("m", "a")}
    assert len(keys) == 3
    assert len(ticket_key("n", "a").digest) == 32
