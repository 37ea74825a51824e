"""Messages and their streams: each from the other, as bytes of each kind, and as stored."""

from __future__ import annotations

import json
import zlib
from typing import Any

import httpx2
import pytest
from anthropic import Stream
from anthropic.lib.bedrock._stream_decoder import AWSEventStreamDecoder
from hypothesis import given
from hypothesis import strategies as st

from mge_cache.anthropic._behind import Wire
from mge_cache.anthropic._events import Event, UnknownEventError, events_of, message_of
from mge_cache.anthropic._frames import BrokenStreamError, decode_aws, encode
from mge_cache.anthropic._record import NotStoredError, Record, UnreadableError
from tests.messages_server.streaming import events_of as events_of_the_api

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CITATIONS = st.lists(st.fixed_dictionaries({"cited_text": TEXT}), max_size=3)
BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text, "citations": None}, TEXT),
    st.builds(
        lambda text, citations: {"type": "text", "text": text, "citations": citations},
        TEXT,
        CITATIONS,
    ),
    st.builds(
        lambda thinking, signature: {
            "type": "thinking",
            "thinking": thinking,
            "signature": signature,
        },
        TEXT,
        TEXT,
    ),
    st.builds(
        lambda given: {"type": "tool_use", "id": "t", "name": "n", "input": given},
        st.dictionaries(TEXT, VALUES, max_size=3),
    ),
    st.builds(lambda data: {"type": "redacted_thinking", "data": data}, TEXT),
)
MESSAGES = st.builds(
    lambda blocks, stop, tokens: {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens, "output_tokens": tokens + 1, "service_tier": "standard"},
    },
    st.lists(BLOCKS, max_size=4),
    st.sampled_from(["end_turn", "tool_use", "stop_sequence"]),
    st.integers(0, 10**6),
)
ONE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Hi", "citations": None}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 3,
        "output_tokens": 5,
        "cache_read_input_tokens": 7,
        "cache_creation_input_tokens": None,
    },
}


def api_stream(message: dict[str, Any]) -> list[Event]:
    return [Event(event["type"], json.dumps(event)) for event in events_of_the_api(message)]


def response_of(raw: bytes, kind: str, **headers: str) -> Record:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Record.of_response({"content-type": kind, **named}, raw, Wire.SSE)


@given(message=MESSAGES)
def test_from_a_message_to_events_and_back(message: dict[str, Any]) -> None:
    assert message_of(events_of(message)) == message


@given(message=MESSAGES)
def test_a_stream_of_the_api_adds_up(message: dict[str, Any]) -> None:
    assert message_of(api_stream(message)) == message


@given(message=MESSAGES)
def test_both_kinds_of_bytes_say_the_same(message: dict[str, Any]) -> None:
    events = list(events_of(message))
    sse = Stream.raw_events(httpx2.Response(200, content=encode(events, Wire.SSE)))
    aws = AWSEventStreamDecoder().iter_bytes(iter([encode(events, Wire.AWS)]))
    assert [Event(str(event.event), event.data) for event in sse] == events
    assert [Event(str(event.event), event.data) for event in aws] == events
    assert list(decode_aws(encode(events, Wire.AWS))) == events


@given(message=MESSAGES)
def test_stored_and_read_again(message: dict[str, Any]) -> None:
    for record in (
        Record(request_id="r", events=tuple(api_stream(message))),
        Record(request_id="r", text=json.dumps(message)),
    ):
        answer = record.to_answer()
        again = Record.of_bytes(answer.body)
        assert again == record
        assert json.loads(again.as_message()) == message
        assert answer.usage is not None
        assert answer.usage.output_tokens == message["usage"]["output_tokens"]


@pytest.mark.parametrize("left_out", range(7))
def test_a_stream_with_a_gap_is_not_stored(left_out: int) -> None:
    events = [event for event in api_stream(ONE) if event.name != "ping"]
    assert len(events) == 6
    kept = [event for number, event in enumerate(events) if number != left_out]
    stored = kept == events
    try:
        Record(request_id="", events=tuple(kept)).to_answer()
    except NotStoredError as error:
        assert error.reason in {"incomplete", "unknown-stop"}  # noqa: PT017 - either may be
    else:
        # Without its text or the end of its block a message is still one that the SDK reads.
        assert stored or left_out in {2, 3}


@pytest.mark.parametrize(
    "event",
    [
        Event("error", '{"type":"error","error":{}}'),
        Event("tomorrow", '{"type":"tomorrow"}'),
        Event("content_block_delta", '{"index":0,"delta":{"type":"tomorrow_delta"}}'),
        Event("content_block_delta", '{"index":9,"delta":{"type":"text_delta","text":""}}'),
        Event("content_block_start", '{"index":5,"content_block":{}}'),
        Event("content_block_stop", "no JSON"),
        Event("message_delta", "[]"),
    ],
)
def test_what_is_not_understood_is_not_stored(event: Event) -> None:
    events = api_stream(ONE)
    with pytest.raises(UnknownEventError) as raised:
        message_of([*events[:2], event, *events[2:]])
    assert "Hi" not in str(raised.value)


def test_usage() -> None:
    usage = Record(request_id="", text=json.dumps(ONE)).to_answer().usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (3, 5)
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (7, 0)


def test_bodies_as_they_come() -> None:
    whole = json.dumps(ONE).encode()
    assert response_of(whole, "application/json; charset=utf-8", request_id="q").request_id == "q"
    packer = zlib.compressobj(wbits=31)
    zipped = packer.compress(whole) + packer.flush()
    record = response_of(zipped, "application/json", content_encoding="gzip")
    assert json.loads(record.text) == ONE


@pytest.mark.parametrize(
    ("raw", "kind", "reason"),
    [
        (b"<html>", "text/html", "content-type"),
        (b"{}", "application/vnd.amazon.eventstream", "content-type"),
        (b"\xff", "application/json", "incomplete"),
        (b"{", "application/json", "incomplete"),
        (b"[]", "application/json", "incomplete"),
        (b'{"type":"message","stop_reason":"end_turn"}', "application/json", "incomplete"),
        (b"", "text/event-stream", "incomplete"),
    ],
)
def test_bodies_that_are_not_stored(raw: bytes, kind: str, reason: str) -> None:
    with pytest.raises(NotStoredError) as raised:
        response_of(raw, kind).to_answer()
    assert raised.value.reason == reason


def test_a_damaged_zip() -> None:
    with pytest.raises(NotStoredError):
        response_of(b"no gzip", "application/json", content_encoding="gzip")


@given(cut=st.integers(0, 400), flip=st.integers(0, 400))
def test_a_damaged_aws_stream(cut: int, flip: int) -> None:
    stream = encode(api_stream(ONE), Wire.AWS)
    damaged = bytearray(stream)
    damaged[flip] ^= 1
    with pytest.raises(BrokenStreamError):
        list(decode_aws(bytes(damaged)))
    whole = len(encode(api_stream(ONE)[:1], Wire.AWS))
    if 0 < cut < whole:
        with pytest.raises(BrokenStreamError):
            list(decode_aws(stream[:cut]))


@pytest.mark.parametrize(
    "stored", [b"", b"\x02{}", b"\x01", b"\x01{}", b'\x01{"id":"","text":"","events":[["a"]]}']
)
def test_records_of_another_version(stored: bytes) -> None:
    with pytest.raises(UnreadableError):
        Record.of_bytes(stored)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"usage":1,"content":2}'])
def test_records_of_no_message(text: str) -> None:
    with pytest.raises(UnreadableError):
        Record(request_id="", text=text).as_stream(Wire.SSE)
