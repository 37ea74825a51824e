"""The AWS event stream, in which Bedrock sends a stream's events."""

from __future__ import annotations

import base64
import json
import zlib


def message(event: str) -> bytes:
    """Wrap an event's JSON text."""
    names = {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
    headers = b"".join(_header(name, value) for name, value in names.items())
    payload = json.dumps({"bytes": base64.b64encode(event.encode()).decode(), "p": "abcd"}).encode()
    total = 4 + 4 + 4 + len(headers) + len(payload) + 4
    prelude = total.to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    whole = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + payload
    return whole + zlib.crc32(whole).to_bytes(4, "big")


def _header(name: str, value: str) -> bytes:
    sized = len(value).to_bytes(2, "big") + value.encode()
    return len(name).to_bytes(1, "big") + name.encode() + b"\x07" + sized
