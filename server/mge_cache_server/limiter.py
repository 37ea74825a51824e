"""How many calls on Anthropic there may be at once, learnt from its rate limit.

Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease
algorithms for congestion avoidance in computer networks", 1989): each call that succeeds raises the
limit by 1/limit, a refusal halves it, and no call begins before the time that the refusal named.
Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque

_COOL_S = 1.0
"""Calls that began together are refused together: that is one refusal."""
_PAUSE_MAX_S = 300.0


class Limiter:
    """Permits for up to ``maximum`` calls, first come, first served."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._limit = float(maximum)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._paused_until_s = 0.0
        self._cool_until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self.in_flight = 0
        """Calls under way."""

    @property
    def limit(self) -> int:
        """How many calls there may be at present, at least 1."""
        return int(self._limit)

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""
        return sum(not each.done() for each in self._waiting)

    @property
    def pause_s(self) -> float:
        """How long no call may begin yet."""
        return max(0.0, self._paused_until_s - asyncio.get_running_loop().time())

    def permit(self) -> _Permit:
        """Return what waits for a permit, and gives it back at the end of its block."""
        return _Permit(self)

    async def acquire(self) -> None:
        """Wait for a permit; see ``permit``."""
        if not self.is_free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            self._admit()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.release()
                elif turn in self._waiting:
                    self._waiting.remove(turn)  # a pause is long enough for many who give up
                raise
        else:
            self.in_flight += 1

    def release(self) -> None:
        """Give a permit back; see ``permit``."""
        self.in_flight -= 1
        self._admit()

    def succeeded(self) -> None:
        """Take note of a call that was answered."""
        self._limit = min(self._maximum, self._limit + 1 / self._limit)
        self._admit()

    def throttled(self, retry_after_s: float | None) -> None:
        """Take note of a refusal, and of the time that it named."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._cool_until_s:
            self._limit = max(1.0, self._limit / 2)
            self._cool_until_s = now_s + _COOL_S
        if retry_after_s is not None:
            until_s = now_s + min(retry_after_s, _PAUSE_MAX_S)
            self._paused_until_s = max(self._paused_until_s, until_s)

    @property
    def is_free(self) -> bool:
        """Whether a permit can be had at once."""
        return not self._waiting and self._is_free()

    def _is_free(self) -> bool:
        return self.in_flight < self.limit and not self.pause_s

    def _admit(self) -> None:
        while self._waiting and self._is_free():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
        if self._waiting and self.pause_s and self._alarm is None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(self._paused_until_s, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self._admit()


class _Permit:
    """A permit for one ``async with`` block."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        await self._limiter.acquire()

    async def __aexit__(self, *exc_info: object) -> None:
        self._limiter.release()
