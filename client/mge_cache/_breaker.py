"""Remembers that the sidecar cannot be reached, so that not every call pays to find out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW_MAX = 3
"""So many deadlines in a row open the breaker; one alone can be a pause of this very process."""


class Breaker:
    """Open after a failure to reach the sidecar; then it lets one call through every ``retry_s``.

    Any thread may call it. ``clock`` gives seconds and never goes back.
    """

    def __init__(self, *, retry_s: float, clock: Callable[[], float]) -> None:
        self._retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._open = False
        self._slow = 0
        self._retry_at = 0.0

    def allows(self) -> bool:
        """Whether to ask the sidecar now. While open, a True makes the caller the next probe.

        A probe need not report back: if it never does, another one may go after ``retry_s``.
        """
        with self._lock:
            if not self._open:
                return True
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = now + self._retry_s
            return True

    def succeeded(self) -> bool:
        """Note that the sidecar answered. True: it had not been reachable until now."""
        with self._lock:
            was_open, self._open = self._open, False
            self._slow = 0
            return was_open

    def failed(self, *, slow: bool) -> bool:
        """Note a call that did not reach the sidecar, or whose deadline passed (``slow``).

        True: this failure opened the breaker.
        """
        with self._lock:
            self._slow += 1
            if slow and not self._open and self._slow < SLOW_MAX:
                return False
            self._retry_at = self._clock() + self._retry_s
            was_open, self._open = self._open, True
            return not was_open
