"""The body of a response, kept while its reader reads it: nothing is read ahead or held back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from anthropic import APIResponse, AsyncAPIResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A body that has passed, as far as it was read; ``ended_at`` by ``time.perf_counter``."""

    headers: Mapping[str, str]
    raw: bytes
    ended_at: float


class Recording:
    """Collects a body of up to ``max_bytes`` and hands it, or why there is none, to ``done``, once.

    ``lost`` is called if everybody lets go of it before its end. One thread (or task) at a time.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        done: Callable[[Passed | str], None],
        lost: Callable[[], None],
    ) -> None:
        self._max_bytes = max_bytes
        self._done: Callable[[Passed | str], None] | None = done
        self._lost = lost
        self._headers: Mapping[str, str] = {}
        self._chunks: list[bytes] = []
        self._size = 0

    def watch(self, response: APIResponse[Any] | AsyncAPIResponse[Any]) -> None:
        """Record the body of a response: what was read already, or what will be."""
        http = response.http_response
        self._headers = dict(http.headers)
        if not http.is_closed and not http.is_stream_consumed:
            if isinstance(http.stream, httpx2.AsyncByteStream) and not isinstance(
                http.stream, httpx2.SyncByteStream
            ):
                http.stream = _AsyncTap(http.stream, self)
                return
            if isinstance(http.stream, httpx2.SyncByteStream):
                http.stream = _Tap(http.stream, self)
                return
        try:
            self.add(http.content)
        except httpx2.ResponseNotRead:  # its reader has closed it
            self.drop()
            return
        self._headers = {k: v for k, v in self._headers.items() if k != "content-encoding"}
        self.end()

    def add(self, chunk: bytes) -> None:
        """Keep a piece, unless the whole becomes too large."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            self._finish("too-large")
        elif self._done is not None:
            self._chunks.append(chunk)

    def end(self) -> None:
        """Note that no more will be read. Whether it is complete shows in the bytes."""
        raw = b"".join(self._chunks)
        self._finish(Passed(headers=self._headers, raw=raw, ended_at=time.perf_counter()))

    def drop(self) -> None:
        """Note that there is no answer."""
        self._finish("failed")

    def _finish(self, passed: Passed | str) -> None:
        done, self._done = self._done, None
        self._chunks = []
        if done is not None:
            done(passed)

    def __del__(self) -> None:
        if self._done is not None:
            self._lost()


class _AsyncTap(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, recording: Recording) -> None:
        self._stream = stream
        self._recording = recording

    @property
    def elapsed(self) -> dt.timedelta | None:
        """What ``httpx2.Response.elapsed`` asks its stream for."""
        return getattr(self._stream, "elapsed", None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._recording.add(chunk)
            yield chunk
        self._recording.end()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._recording.end()


class _Tap(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, recording: Recording) -> None:
        self._stream = stream
        self._recording = recording

    @property
    def elapsed(self) -> dt.timedelta | None:
        """What ``httpx2.Response.elapsed`` asks its stream for."""
        return getattr(self._stream, "elapsed", None)

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._recording.add(chunk)
            yield chunk
        self._recording.end()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._recording.end()
