"""A circuit breaker: after some failures in a row, stop asking until a probe succeeds.

The probe runs in the background, so that no caller pays for it (Nygard, "Release It!", stability
pattern "circuit breaker"). Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mge_cache_server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)


class Breaker:
    """Opens after ``failures`` failures in a row; probes every ``retry_s`` seconds while open."""

    def __init__(
        self, *, probe: Callable[[], Awaitable[None]], failures: int, retry_s: float
    ) -> None:
        self._probe = probe
        self._failures = failures
        self._retry_s = retry_s
        self._in_a_row = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        """Whether callers should not even try."""
        return self._probing is not None

    def succeeded(self) -> None:
        """Take note of an operation that worked."""
        self._in_a_row = 0

    def failed(self, reason: str) -> None:
        """Take note of an operation that did not work; may open the breaker."""
        self._in_a_row += 1
        if self._in_a_row >= self._failures and self._probing is None:
            _log.warning("store unavailable", extra={"reason": reason})
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_it_works())

    async def close(self) -> None:
        """Stop probing. The breaker is closed afterwards."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])
            self._probing = None

    async def _probe_until_it_works(self) -> None:
        while True:
            await asyncio.sleep(self._retry_s)
            try:
                await self._probe()
            except StoreError:
                continue
            break
        self._in_a_row = 0
        self._probing = None
        _log.info("store available again")
