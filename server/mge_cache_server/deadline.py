"""A deadline that a busy event loop does not mistake for a slow peer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_LATE_S = 0.005


class Deadline:
    """``async with Deadline(seconds)`` raises TimeoutError after so much silence of the peer.

    If the alarm itself comes late, this process was busy: a reply may already lie in the socket, so
    the wait goes on for as long again, once.
    """

    __slots__ = ("_alarm", "_due_s", "_loop", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time() + self._seconds
        self._alarm = self._loop.call_at(self._due_s, self._ring)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._alarm.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _ring(self) -> None:
        now_s = self._loop.time()
        late = now_s - self._due_s > _LATE_S
        self._timeout.reschedule(now_s + self._seconds if late else now_s)
