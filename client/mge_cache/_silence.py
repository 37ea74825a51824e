"""When the silence of a sidecar is proof that it hangs. Nothing here does I/O or waits."""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING

from mge_cache.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache._types import Timeouts

HANGS_AFTER = 5
"""So many looks after the sidecar was asked whether it is there, silence is an answer, too."""
ASKS_AFTER = 2
"""So many looks without a sound, and it is asked."""
ASKS_AFTER_MAX = 2 * HANGS_AFTER
_EARLY = 0.5
"""The share of the time between two looks by which a look may be early, as timers are."""
WAITING_LOOKS = 12
"""The same for callers who wait for another caller's answer: then silence is usual."""


class Sign(enum.Enum):
    """What a look at the silence shows."""

    NOTHING = enum.auto()
    ASK = enum.auto()
    """Time to ask the sidecar whether it is there."""
    HANGS = enum.auto()


class Silence:
    """Counts looks at a connection on which calls wait and nothing arrives.

    Silence is measured in looks, each ``look_s`` after the one before or later, and not in time: a
    process that was busy elsewhere looks late, and has then missed one chance to hear, not many.
    Each look is taken after what had arrived was handled, by an event loop or by whoever has
    the GIL in its turn.

    After ``asks_after`` looks the sidecar is to be asked, and after ``HANGS_AFTER`` more it hangs.
    Where it answers that it is there while a call still waits, it is asked half as soon the next
    time, down to ``ASKS_AFTER_MAX``, and sooner again after a call that did without. On a
    connection on which nothing has ever arrived it hangs after ``connects_after`` looks, as
    connecting takes longer.

    Any thread may call it. ``clock`` gives seconds and never goes back.
    """

    def __init__(
        self,
        *,
        look_s: float,
        clock: Callable[[], float],
        asks_after: int = ASKS_AFTER,
        connects_after: int = ASKS_AFTER + HANGS_AFTER,
    ) -> None:
        self.look_s = look_s
        self._clock = clock
        self._least = asks_after
        self._asks_after = asks_after
        self._connects_after = connects_after
        self._lock = threading.Lock()
        self._waiting = 0
        self._looks = 0
        self._asked_at: int | None = None
        self._looked_at_s = 0.0
        self._known = False
        self._needless = False

    def begins(self) -> None:
        """Note that a call waits from now on."""
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._starts_anew()

    def ends(self) -> None:
        """Note that a call waits no more, whatever became of it."""
        with self._lock:
            self._waiting -= 1

    def heard(self, *, only_there: bool = False) -> None:
        """Note that something arrived; ``only_there``: no more than that the sidecar is there."""
        with self._lock:
            self._known = True
            if not only_there:
                if not self._needless:
                    self._asks_after = max(self._least, self._asks_after // 2)
                self._needless = False
            elif self._waiting:
                self._needless = True
                self._asks_after = min(2 * self._asks_after, max(ASKS_AFTER_MAX, self._least))
            self._starts_anew()

    def disconnected(self) -> None:
        """Note that the connection is lost, so that the next call has to wait for a new one."""
        with self._lock:
            self._known = False

    def look(self) -> Sign:
        """Look once. To be called every ``look_s`` while calls wait; too early is no look."""
        with self._lock:
            now_s = self._clock()
            if not self._waiting or now_s - self._looked_at_s < _EARLY * self.look_s:
                return Sign.NOTHING
            self._looked_at_s = now_s
            self._looks += 1
            if self._asked_at is None:
                if self._looks < self._asks_after:
                    return Sign.NOTHING
                self._asked_at = self._looks
                return Sign.ASK
            hangs_at = self._asked_at + HANGS_AFTER
            if not self._known:
                hangs_at = max(hangs_at, self._connects_after)
            return Sign.HANGS if self._looks >= hangs_at else Sign.NOTHING

    def _starts_anew(self) -> None:
        self._looks = 0
        self._asked_at = None
        self._looked_at_s = self._clock()


def silences(timeouts: Timeouts, clock: Callable[[], float]) -> tuple[Silence, Silence]:
    """Return what measures the silence for calls that want an answer soon, and for waiting ones."""
    look_s = timeouts.silence_limit_s / HANGS_AFTER
    soon = Silence(
        look_s=look_s, clock=clock, connects_after=round(timeouts.connect_limit_s / look_s)
    )
    later = Silence(look_s=timeouts.get_s / HANGS_AFTER, clock=clock, asks_after=WAITING_LOOKS)
    return soon, later


def silence_error() -> UnavailableError:
    """Make the error of a call that was given up."""
    return UnavailableError("it hangs: nothing comes from it, not even that it is there")
