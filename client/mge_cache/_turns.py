"""Turns among the callers of one process that wait for the same answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable


class _Turn:
    __slots__ = ("callers", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0


class Turns:
    """Lets one caller at a time wait at the sidecar for a key, the others wait here.

    A thousand look-ups that all wait would all be answered, or run into their deadlines, in the
    same moment: more than a process can handle in time. For one event loop.
    """

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: Hashable, *, within_s: float) -> AsyncIterator[None]:
        """Run the block when it is the caller's turn, or after ``within_s`` without one."""
        turn = self._turns.setdefault(key, _Turn())
        turn.callers += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within_s):
                        await stack.enter_async_context(turn.lock)
                yield
        finally:
            turn.callers -= 1
            if not turn.callers:
                del self._turns[key]
