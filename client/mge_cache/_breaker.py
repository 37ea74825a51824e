"""Remembers that the sidecar cannot be reached, so that not every call pays to find out."""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW_MAX = 3
"""So many deadlines in a row open the breaker, if the sidecar says meanwhile that it is there."""


class _State(enum.Enum):
    CLOSED = enum.auto()
    AWAY = enum.auto()
    """The sidecar is not there: as soon as it says that it is, the breaker closes."""
    SLOW = enum.auto()
    """It may be there, but look-ups take too long: only one that does not closes the breaker."""


class Breaker:
    """Open after a failure to reach the sidecar; then nobody waits for it.

    Where the sidecar was away, ``asks`` says when to ask it whether it is back, which no caller
    need wait for. Where it was too slow, one call in ``retry_s`` is let through.

    Any thread may call it. ``clock`` gives seconds and never goes back.
    """

    def __init__(self, *, retry_s: float, clock: Callable[[], float]) -> None:
        self._retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._state = _State.CLOSED
        self._slow = 0
        self._retry_at = 0.0

    def allows(self) -> bool:
        """Whether a call may wait for the sidecar now.

        Where it was too slow, a True makes the caller the next trial. It need not report back: if
        it never does, another one may go after ``retry_s``.
        """
        with self._lock:
            if self._state is _State.SLOW:
                return self._is_time()
            return self._state is _State.CLOSED

    def asks(self) -> bool:
        """Whether it is time to ask the sidecar, which is away, whether it is back."""
        with self._lock:
            return self._state is _State.AWAY and self._is_time()

    def answered(self) -> bool:
        """Note that the sidecar says that it is there. True: it had been away until now."""
        with self._lock:
            if self._state is not _State.AWAY:
                return False
            self._close()
            return True

    def succeeded(self) -> bool:
        """Note that the sidecar did what it was asked. True: it had not until now."""
        with self._lock:
            was_open = self._state is not _State.CLOSED
            self._close()
            return was_open

    def failed(self, *, slow: bool, generous: bool = False) -> bool:
        """Note a call that did not reach the sidecar, or whose deadline passed (``slow``).

        ``generous``: that was so long a deadline that one is enough. True: the breaker opened.
        """
        with self._lock:
            was_open = self._state is not _State.CLOSED
            self._slow += 1
            if slow and not was_open and not generous and self._slow < SLOW_MAX:
                return False
            if not slow:
                self._state = _State.AWAY
            elif not was_open:
                self._state = _State.SLOW
            self._retry_at = self._clock() + self._retry_s
            return not was_open

    def _is_time(self) -> bool:
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self._retry_s
        return True

    def _close(self) -> None:
        self._state = _State.CLOSED
        self._slow = 0
