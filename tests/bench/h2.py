"""A load generator for unary gRPC calls that costs little: HTTP/2 frames, encoded beforehand.

A Python gRPC client is as slow as a Python gRPC server, so that it would measure itself. This one
writes ready frames and looks at the frames that come back, for a quarter of the time. It finds what
``h2load`` finds. It keeps to flow control, answers SETTINGS and PING, and fails on an answer
without a message (an error status) or with a shorter one than expected (a miss where a hit was
meant).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, cast

from tests.bench.measure import LoadError, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_PING, _GOAWAY, _WINDOW_UPDATE = 0x6, 0x7, 0x8
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SETTING = 0x4
_WINDOW_BYTES = 2**30
_REFILL_BYTES = 2**28
_INITIAL_WINDOW_BYTES = 65_535
_FRAME_BYTES = 16_384


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    header = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return header + struct.pack(">I", stream) + payload


def _literal(text: str) -> bytes:
    """Encode an HPACK string without Huffman coding."""
    raw = text.encode()
    if len(raw) >= 127:
        raise ValueError("header too long for this encoder")
    return bytes((len(raw),)) + raw


def _request_headers(path: str) -> tuple[bytes, bytes]:
    """Return the header block of the first request, and of the later ones.

    The first enters its fields into the HPACK table; the later ones name their indices, as gRPC's
    own client does.
    """
    static = b"\x83\x86"  # :method POST, :scheme http
    entered = b"".join(
        (
            b"\x44" + _literal(path),  # name is static entry 4
            b"\x41" + _literal("localhost"),  # static entry 1
            b"\x5f" + _literal("application/grpc"),  # content-type, static entry 31
            b"\x40" + _literal("te") + _literal("trailers"),
        )
    )
    # The table is newest first, from index 62: te, content-type, :authority, :path.
    return static + entered, static + b"\xc1\xc0\xbf\xbe"


class Connection(asyncio.Protocol):
    """One HTTP/2 connection that calls one method. One event loop; one run at a time."""

    def __init__(self, path: str, requests: Sequence[bytes], *, min_answer_bytes: int = 1) -> None:
        self._min_answer_bytes = min_answer_bytes
        self._first_headers, self._headers = _request_headers(path)
        self._bodies = [_message_frames(request) for request in requests]
        self._next_body = 0
        self._stream = -1
        self._transport: asyncio.WriteTransport | None = None
        self._received = b""
        self._window = _INITIAL_WINDOW_BYTES
        self._unacknowledged_bytes = 0
        self._started: dict[int, float] = {}
        self._answered_bytes: dict[int, int] = {}
        self._latencies_s: list[float] = []
        self._stop_at = 0.0
        self._calls_left = 0
        self._blocked: deque[None] = deque()
        self._done: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, socket_path: str, path: str, requests: Sequence[bytes], *, min_answer_bytes: int = 1
    ) -> Connection:
        """Connect to a unix socket, and make one call to warm up."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(
            lambda: cls(path, requests, min_answer_bytes=min_answer_bytes), socket_path
        )
        await connection.run(in_flight=1, calls=1)
        return connection

    async def run(self, *, in_flight: int, duration_s: float = 3600, calls: int = 2**62) -> Run:
        """Keep ``in_flight`` calls going for a time or for a number of calls.

        Raises ``LoadError`` as soon as an answer is not as expected.
        """
        self._done = asyncio.get_running_loop().create_future()
        self._latencies_s = []
        start = perf_counter()
        self._stop_at = start + duration_s
        self._calls_left = calls
        self._write(b"".join(self._start_call() for _ in range(min(in_flight, calls))))
        await self._done
        return Run(self._latencies_s, perf_counter() - start)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        settings = struct.pack(">HI", _INITIAL_WINDOW_SETTING, _WINDOW_BYTES)
        self._write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_BYTES))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed: {exc}")

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        position, end = 0, len(received)
        out: list[bytes] = []
        while end - position >= 9:
            length = int.from_bytes(received[position : position + 3], "big")
            following = position + 9 + length
            if following > end:
                break
            kind, flags = received[position + 3], received[position + 4]
            stream = int.from_bytes(received[position + 5 : position + 9], "big") & 0x7FFFFFFF
            if kind == _DATA:
                self._answered_bytes[stream] = self._answered_bytes.get(stream, 0) + length
                self._unacknowledged_bytes += length
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    out.append(self._end_call(stream))
            else:
                payload = received[position + 9 : following]
                out.append(self._control(kind, flags, stream, payload))
            position = following
        self._received = received[position:]
        if self._unacknowledged_bytes > _REFILL_BYTES:
            refill = struct.pack(">I", self._unacknowledged_bytes)
            out.append(_frame(_WINDOW_UPDATE, 0, 0, refill))
            self._unacknowledged_bytes = 0
        self._write(b"".join(out))

    def _start_call(self) -> bytes:
        """Return the frames of the next call, or nothing if flow control says to wait."""
        body, data_bytes = self._bodies[self._next_body]
        if data_bytes > self._window:
            self._blocked.append(None)
            return b""
        self._window -= data_bytes
        self._calls_left -= 1
        self._next_body = (self._next_body + 1) % len(self._bodies)
        self._stream += 2
        stream = self._stream
        block = self._first_headers if stream == 1 else self._headers
        identifier = struct.pack(">I", stream)
        data = b"".join(head + identifier + payload for head, payload in body)
        self._started[stream] = perf_counter()
        return _frame(_HEADERS, _END_HEADERS, stream, block) + data

    def _end_call(self, stream: int) -> bytes:
        now = perf_counter()
        self._latencies_s.append(now - self._started.pop(stream))
        answered_bytes = self._answered_bytes.pop(stream, 0)
        if answered_bytes < self._min_answer_bytes:
            self._fail(f"an answer of {answered_bytes} bytes, wanted {self._min_answer_bytes}")
            return b""
        if now < self._stop_at and self._calls_left > 0:
            return self._start_call()
        if not self._started and self._done is not None and not self._done.done():
            self._blocked.clear()
            self._done.set_result(None)
        return b""

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == _SETTINGS and not flags & _ACK:
            return _frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return _frame(_PING, _ACK, 0, payload)
        # A stream's own window is of no interest: no body reaches the 64 KiB that it begins with.
        if kind == _WINDOW_UPDATE and stream == 0:
            return self._window_grew(int.from_bytes(payload, "big"))
        if kind in {_RST_STREAM, _GOAWAY}:
            self._fail(f"the server sent frame {kind}: {payload[:120]!r}")
        return b""

    def _window_grew(self, more_bytes: int) -> bytes:
        self._window += more_bytes
        waiting = len(self._blocked)
        self._blocked.clear()
        return b"".join(self._start_call() for _ in range(waiting))

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._transport.write(data)

    def _fail(self, problem: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(LoadError(problem))


def _message_frames(message: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """Split a gRPC message into DATA frames, (header up to the stream, payload); add its size."""
    raw = struct.pack(">BI", 0, len(message)) + message
    if len(raw) > _INITIAL_WINDOW_BYTES:
        raise ValueError("the message does not fit into a stream's first window")
    frames = []
    for begin in range(0, len(raw), _FRAME_BYTES):
        payload = raw[begin : begin + _FRAME_BYTES]
        flags = _END_STREAM if begin + _FRAME_BYTES >= len(raw) else 0
        head = struct.pack(">I", len(payload))[1:] + bytes((_DATA, flags))
        frames.append((head, payload))
    return frames, len(raw)
