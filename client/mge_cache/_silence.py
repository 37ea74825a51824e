"""When the silence of a sidecar is proof that it hangs. Nothing here does I/O or waits."""

from __future__ import annotations

import enum
import math
import threading
from typing import TYPE_CHECKING

from mge_cache.errors import DeadlineExceededError, SidecarError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache._types import Timeouts

HANGS_AFTER = 5
"""So many looks after the sidecar was asked whether it is there, silence is an answer, too."""
USUAL_TIMES = 3
"""But not before it has lasted for so many times the longest silence of late."""
HALF_LIFE_S = 10.0
"""By how much "of late" is meant: after this, half of what was known of silences is forgotten."""
ASKS_AFTER = 2
"""So many looks without a sound, and it is asked."""
ASKS_AFTER_MAX = 2 * HANGS_AFTER
WAITING_LOOKS = 12
"""The same for callers who wait for another caller's answer: then silence is usual."""
OWN_TIMES = 3
"""gRPC's own deadline of a look-up, in terms of the one that is counted in looks: it goes on where
this process is not running, too."""
_EARLY = 0.5
"""The share of the time between two looks by which a look may be early, as timers are."""


class Wait:
    """A call that waits, until ``given_up`` says why it has to stop.

    ``give_up`` is called then, once. Where it is ``bounded``, it has to stop after so many looks as
    there are in the deadline of a look-up, however much the sidecar says to others.
    """

    __slots__ = ("_began", "_bounded", "_give_up", "given_up")

    def __init__(self, give_up: Callable[[], object], *, bounded: bool) -> None:
        self._give_up = give_up
        self._bounded = bounded
        self._began = 0
        self.given_up: SidecarError | None = None

    def begin(self, looks: int) -> None:
        """Take note of how many looks there had been before it."""
        self._began = looks

    def consider(self, *, hangs: bool, looks: int, looks_max: int) -> None:
        """Give it up if it is time to."""
        if self.given_up is not None:
            return
        if hangs:
            self.given_up = UnavailableError("it hangs: it does not even say that it is there")
        elif self._bounded and looks - self._began >= looks_max:
            self.given_up = DeadlineExceededError("no answer within the deadline of a look-up")
        else:
            return
        self._give_up()


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

    After ``asks_after`` looks the sidecar is to be asked, and after ``HANGS_AFTER`` more it hangs;
    later where silences have been long, as on a busy machine, up to a quarter of the deadline. One
    that was taken for hanging and turns out to be there within ``deadline_s`` counts among these.
    On a connection on which nothing has ever arrived it hangs after ``connects_after`` looks, as
    connecting takes longer.

    Where it answers that it is there while a call still waits, it is asked half as soon the next
    time, down to ``ASKS_AFTER_MAX``, and sooner again after a call that did without.

    ``looks`` counts them all, ``looks_max`` are in ``deadline_s``, that of a look-up.

    Any thread may call it. ``clock`` gives seconds and never goes back.
    """

    def __init__(
        self,
        *,
        look_s: float,
        deadline_s: float,
        clock: Callable[[], float],
        asks_after: int = ASKS_AFTER,
        connects_after: int = ASKS_AFTER + HANGS_AFTER,
    ) -> None:
        self.look_s = look_s
        self._deadline_s = deadline_s
        self.looks_max = round(deadline_s / look_s)
        self.looks = 0
        self._clock = clock
        self._least = asks_after
        self._asks_after = asks_after
        self._connects_after = connects_after
        self._lock = threading.Lock()
        self._waiting = 0
        self._looks = 0
        self._asked_at: int | None = None
        self._looked_at_s = 0.0
        self._since_s = 0.0
        self._hung_since_s: float | None = None
        self._longest = 0.0
        self._longest_at_s = 0.0
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
            self._remember()
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
            self.looks += 1
            if self._asked_at is None:
                if self._looks < self._asks_after:
                    return Sign.NOTHING
                self._asked_at = self._looks
                return Sign.ASK
            hangs_at = self._asked_at + self._hangs_after(now_s)
            if not self._known:
                hangs_at = max(hangs_at, self._connects_after)
            if self._looks < hangs_at:
                return Sign.NOTHING
            if self._hung_since_s is None:
                self._hung_since_s = self._since_s
            return Sign.HANGS

    def _usual(self, now_s: float) -> float:
        """Return the longest silence of late, in looks beyond the first question's."""
        return self._longest * math.exp2((self._longest_at_s - now_s) / HALF_LIFE_S)

    def _hangs_after(self, now_s: float) -> float:
        """Return how many looks after the question silence is proof."""
        learnt = min(USUAL_TIMES * self._usual(now_s), self.looks_max / 4)
        return max(HANGS_AFTER, learnt)

    def _remember(self) -> None:
        """Take note of the silence that ends, unless it was none, of connecting, or a real hang."""
        if not self._known or (not self._looks and self._hung_since_s is None):
            self._hung_since_s = None
            return
        now_s = self._clock()
        looks: float = self._looks - self._least
        if self._hung_since_s is not None:
            silence_s = now_s - self._hung_since_s
            looks = silence_s / self.look_s if silence_s < self._deadline_s else 0.0
            self._hung_since_s = None
        if looks > self._usual(now_s):
            self._longest, self._longest_at_s = looks, now_s

    def _starts_anew(self) -> None:
        self._looks = 0
        self._asked_at = None
        self._looked_at_s = self._since_s = self._clock()


def silences(timeouts: Timeouts, clock: Callable[[], float]) -> tuple[Silence, Silence]:
    """Return what measures the silence for calls that want an answer soon, and for waiting ones."""
    look_s = timeouts.silence_limit_s / HANGS_AFTER
    soon = Silence(
        look_s=look_s,
        deadline_s=timeouts.get_s,
        clock=clock,
        connects_after=round(timeouts.connect_limit_s / look_s),
    )
    later = Silence(
        look_s=timeouts.get_s / HANGS_AFTER,
        deadline_s=timeouts.get_s,
        clock=clock,
        asks_after=WAITING_LOOKS,
    )
    return soon, later
