"""What is stored of an answer: the message as it came, whole or in events, and no header but one.

A record filled by a stream gives exactly its events back, one filled by a message exactly its
bytes; the other form is made from it. So both kinds of request share an entry.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import httpx2
from anthropic import Stream

from mge_cache._types import Answer, Usage
from mge_cache.anthropic._behind import Wire
from mge_cache.anthropic._events import Event, UnknownEventError, events_of, message_of
from mge_cache.anthropic._frames import CONTENT_TYPES, BrokenStreamError, decode_aws, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mge_cache.anthropic._events import Message

CONTENT_TYPE = "application/vnd.mge-cache.anthropic+json"
REQUEST_ID = "request-id"

_VERSION = b"\x01"
_COMPLETE = frozenset({"end_turn", "stop_sequence", "tool_use"})
"""Reasons to stop that leave nothing out: only with these is an answer stored."""
_CUT_SHORT = frozenset(
    {"compaction", "max_tokens", "model_context_window_exceeded", "pause_turn", "refusal"}
)
_TOKENS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}


class NotStoredError(Exception):
    """Why an answer is not stored; ``reason`` is a word, never a part of the answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnreadableError(ValueError):
    """Stored bytes that this version cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An answer: the text of a message, or the events of its stream; the other is empty."""

    request_id: str
    text: str = ""
    events: tuple[Event, ...] = ()

    @classmethod
    def of_response(cls, headers: Mapping[str, str], raw: bytes, wire: Wire) -> Self:
        """Read a response's body, as it came from the network. Raises NotStoredError."""
        kept = {name: headers[name] for name in ("content-encoding",) if name in headers}
        request_id = headers.get(REQUEST_ID, "")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            response = httpx2.Response(200, headers=kept, content=raw)
            if kind == "application/json":
                return cls(request_id=request_id, text=response.content.decode())
            if kind == "text/event-stream":
                events = [Event(e.event, e.data) for e in Stream.raw_events(response) if e.event]
                return cls(request_id=request_id, events=tuple(events))
            if kind == CONTENT_TYPES[Wire.AWS] and wire is Wire.AWS:
                return cls(request_id=request_id, events=tuple(decode_aws(response.content)))
        except (BrokenStreamError, UnicodeDecodeError, httpx2.DecodingError):
            raise NotStoredError("incomplete") from None
        raise NotStoredError("content-type")

    @classmethod
    def of_bytes(cls, stored: bytes) -> Self:
        """Read a stored record. Raises UnreadableError."""
        if not stored.startswith(_VERSION):
            raise UnreadableError("a stored answer is of another version")
        try:
            fields = json.loads(stored[len(_VERSION) :])
            events = tuple(Event(str(name), str(data)) for name, data in fields["events"])
            return cls(request_id=str(fields["id"]), text=str(fields["text"]), events=events)
        except (ValueError, KeyError, TypeError):
            raise UnreadableError("a stored answer cannot be read") from None

    def to_bytes(self) -> bytes:
        """Write the record."""
        fields = {"id": self.request_id, "text": self.text, "events": self.events}
        return _VERSION + json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def message(self) -> Message:
        """Return the message. Raises UnreadableError."""
        try:
            message = message_of(self.events) if self.events else json.loads(self.text)
        except UnknownEventError as exc:
            raise UnreadableError(str(exc)) from None
        except ValueError:
            raise UnreadableError("it is no JSON") from None
        if not isinstance(message, dict):
            raise UnreadableError("it is no object")
        return message

    def as_message(self) -> bytes:
        """Return the body of a response that is not streamed. Raises UnreadableError."""
        return self.text.encode() if self.text else json.dumps(self.message()).encode()

    def as_stream(self, wire: Wire) -> bytes:
        """Return the body of a response that is streamed. Raises UnreadableError."""
        if self.events:
            return encode(self.events, wire)
        try:
            return encode(events_of(self.message()), wire)
        except (LookupError, TypeError, AttributeError):
            raise UnreadableError("a message of an unknown shape") from None

    def to_answer(self) -> Answer:
        """Return what to store. Raises NotStoredError for what must not be given to another."""
        try:
            message = self.message()
            self.as_stream(Wire.SSE)  # proves that it can be
        except UnreadableError:
            raise NotStoredError("incomplete") from None
        stop = message.get("stop_reason")
        if message.get("type") != "message" or stop not in _COMPLETE:
            raise NotStoredError(stop if stop in _CUT_SHORT else "unknown-stop")
        if message.get("container"):
            raise NotStoredError("container")
        return Answer(self.to_bytes(), content_type=CONTENT_TYPE, usage=usage_of(message))


def usage_of(message: Message) -> Usage:
    usage = message.get("usage") or {}
    counted = {ours: usage.get(theirs) or 0 for theirs, ours in _TOKENS.items()}
    return Usage(**{name: count for name, count in counted.items() if isinstance(count, int)})
