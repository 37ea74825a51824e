"""Events as the bytes of a stream: server-sent events, or the AWS event stream of Bedrock."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import TYPE_CHECKING

from mge_cache.anthropic._behind import Wire
from mge_cache.anthropic._events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONTENT_TYPES = {
    Wire.SSE: "text/event-stream; charset=utf-8",
    Wire.AWS: "application/vnd.amazon.eventstream",
}

# An AWS message is: its length, its headers' length, a CRC of these two; headers; payload; a CRC of
# all before. A header is its name (length in 8 bits), a type (7: text), its value (length in 16).
_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")
_TEXT_LENGTH = struct.Struct(">H")
_TEXT_TYPE = 7
_AROUND_BYTES = _PRELUDE.size + 2 * _CRC.size


class BrokenStreamError(ValueError):
    """Bytes that are not a whole stream of events."""


def encode(events: Iterable[Event], wire: Wire) -> bytes:
    """Write the events as a provider sends them."""
    write = _sse if wire is Wire.SSE else _aws
    return b"".join(map(write, events))


def decode_aws(stream: bytes) -> Iterator[Event]:
    """Read the events of an AWS event stream. Raises BrokenStreamError."""
    at = 0
    while at < len(stream):
        try:
            length, headers_length = _PRELUDE.unpack_from(stream, at)
            message = stream[at : at + length]
            [crc] = _CRC.unpack(message[-_CRC.size :])
        except struct.error:
            raise BrokenStreamError("it is cut") from None
        if len(message) != length or zlib.crc32(message[: -_CRC.size]) != crc:
            raise BrokenStreamError("it is cut or damaged")
        begin = _PRELUDE.size + _CRC.size
        payload = message[begin + headers_length : -_CRC.size]
        yield _aws_event(message[begin : begin + headers_length], payload)
        at += length


def _aws_event(headers: bytes, payload: bytes) -> Event:
    if _aws_header(":message-type", "event") not in headers:
        raise BrokenStreamError("it reports an error")
    try:
        data = base64.b64decode(json.loads(payload)["bytes"]).decode()
        return Event(json.loads(data)["type"], data)
    except (ValueError, KeyError, TypeError):
        raise BrokenStreamError("an event of it is not understood") from None


def _sse(event: Event) -> bytes:
    data = "".join(f"data: {line}\n" for line in event.data.split("\n"))
    return f"event: {event.name}\n{data}\n".encode()


def _aws(event: Event) -> bytes:
    headers = (
        _aws_header(":event-type", "chunk")
        + _aws_header(":content-type", "application/json")
        + _aws_header(":message-type", "event")
    )
    payload = json.dumps({"bytes": base64.b64encode(event.data.encode()).decode()}).encode()
    prelude = _PRELUDE.pack(_AROUND_BYTES + len(headers) + len(payload), len(headers))
    message = prelude + _CRC.pack(zlib.crc32(prelude)) + headers + payload
    return message + _CRC.pack(zlib.crc32(message))


def _aws_header(name: str, value: str) -> bytes:
    return b"".join(
        (
            bytes((len(name),)),
            name.encode(),
            bytes((_TEXT_TYPE,)),
            _TEXT_LENGTH.pack(len(value)),
            value.encode(),
        )
    )
